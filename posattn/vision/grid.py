"""Positions of the tokens of an image: distances, neighbours, and the patch grid of a forward pass."""

from math import ceil
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

KeyT = TypeVar("KeyT")


class Grid(NamedTuple):
    """``prefix`` tokens without a place (class token, registers), then ``height`` x ``width`` patches row by row."""

    height: int
    width: int
    prefix: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def num_patches(self) -> int:
        return self.height * self.width

    @property
    def num_tokens(self) -> int:
        return self.prefix + self.num_patches

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


class Layout(NamedTuple):
    """The tokens that a layer attends from and to, and the pixels (down, across) from a query's patch to the next.

    Queries and keys cover the same part of the image. Their grids differ in layers that pool one of them.
    """

    queries: Grid
    keys: Grid
    patch: tuple[float, float]

    @property
    def square(self) -> bool:
        """Whether queries and keys are the same tokens."""
        return self.queries == self.keys


def offsets(queries: Grid, keys: Grid | None = None) -> Float[Tensor, "2 D E"]:
    """Rows and columns from each key patch to each query patch, in patches of the queries; default: keys = queries."""
    ours, theirs = centres(queries, queries), centres(keys or queries, queries)
    return ours[:, :, None] - theirs[:, None, :]


def centres(grid: Grid, unit: Grid) -> Float[Tensor, "2 D"]:
    """Row and column of the centre of each patch, in patches of ``unit``, a grid over the same image."""
    rows = (torch.arange(grid.height, dtype=torch.double) + 0.5) * (unit.height / grid.height)
    columns = (torch.arange(grid.width, dtype=torch.double) + 0.5) * (unit.width / grid.width)
    return torch.stack([each.flatten() for each in torch.meshgrid(rows, columns, indexing="ij")])


def distances(queries: Grid, keys: Grid | None = None) -> Float[Tensor, "D E"]:
    """Euclidean distance of each query patch from each key patch, in patches of the queries."""
    return torch.hypot(*offsets(queries, keys))


def neighbourhoods(grid: Grid) -> Bool[Tensor, "D D"]:
    """For each patch, itself and the up to eight patches around it."""
    return distances(grid) < 1.5


def grid_by_stride(image_size: tuple[int, int], num_patches: int) -> tuple[int, int] | None:
    """Rows and columns of ``num_patches`` patches that tile an image of (H, W) pixels at one integer stride.

    None unless exactly one grid fits; a last patch may be cut off or padded.
    """
    fits = set()
    for stride in range(1, max(image_size) + 1):
        for sides in zip(*((max(1, s // stride), ceil(s / stride)) for s in image_size), strict=True):
            if sides[0] * sides[1] == num_patches:
                fits.add(sides)
    return fits.pop() if len(fits) == 1 else None


def keep_grid(known: dict[KeyT, Layout], key: KeyT, layout: Layout) -> None:
    """Record the layout of layer ``key`` in ``known``.

    Raises:
        ValueError: it differs from the one known: maps of a landscape and of a portrait image have the same
            shape where the token counts agree, but must not be averaged.
    """
    first = known.setdefault(key, layout)
    if first != layout:
        raise ValueError(
            f"all images must give one grid of patches: layer {key} saw {describe(first)}, then {describe(layout)}"
        )


def describe(layout: Layout) -> str:
    """The grid of a layout and its patch, for messages."""
    rows, columns = layout.patch
    keys = "" if layout.square else f" attending to {layout.keys}"
    return f"{layout.queries} patches of {rows:g}x{columns:g} pixels{keys}"


def weights(layout: Layout, radius: float) -> dict[str, Float[Tensor, "Q K"]]:
    """Weights of a map's entries from patches to patches; zero for prefix tokens.

    ``within``: 1 within ``radius``; ``apart``: the distance in patches; ``pixels``: the distance in pixels, only
    where patches are not square (elsewhere it is ``apart`` times their side).
    """
    queries, keys, patch = layout
    by_place = offsets(queries, keys)
    apart = torch.hypot(*by_place)
    held: dict[str, Any] = {"within": (apart <= radius).double(), "apart": apart}
    if patch[0] != patch[1]:
        held["pixels"] = torch.hypot(by_place[0] * patch[0], by_place[1] * patch[1])
    return {name: torch.nn.functional.pad(w, (keys.prefix, 0, queries.prefix, 0)) for name, w in held.items()}

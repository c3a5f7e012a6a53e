"""The interface of adapters: a model's attention layers, prefix tokens and patch grid."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from jaxtyping import Float
from timm.layers import to_2tuple
from torch import Tensor, nn

from posattn.vision.grid import Grid, Layout, grid_by_stride

ImageSize = tuple[int, int]
GridSize = tuple[int, int]
STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
# how many times smaller than the embedding's the grids of later layers may be
STAGES = [2**stage for stage in range(6)]


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer, found by an adapter.

    ``prefix``: tokens before the patches; None if the model does not tell (none or one then, whichever fits).
    ``entry``: the module whose first input is the image, so that its size is known inside a wrapper that resizes.
    ``grid``: the rows and columns of patches of an image of (H, W) pixels; default: from the number of tokens.
    ``window``: rows and columns of the windows that it attends within, ordered image by image.
    ``pooled``: attends over pooled tokens, fewer than the layer's input has.
    ``mixes_heads``: its maps are those before it mixes heads, which it does after the softmax.
    ``maps_per_head``: how many softmax maps each head has (2 in differential attention).
    ``block``: the module whose output is the layer's tokens after attention and MLP, where it has one of its own.
    """

    path: str
    module: nn.Module
    num_heads: int
    prefix: int | None = 0
    entry: nn.Module | None = None
    grid: Callable[[ImageSize], GridSize] | None = None
    window: GridSize | None = None
    pooled: bool = False
    mixes_heads: bool = False
    maps_per_head: int = 1
    block: nn.Module | None = None

    def layout(self, image: ImageSize, windows: int, num_queries: int, num_keys: int) -> Layout:
        """The tokens of a forward pass over images of (H, W) pixels, each in so many windows.

        Raises:
            TypeError: they are not the patches of a grid after the prefix.
        """
        if num_queries == 1 < num_keys:
            raise self.refuse("it attends from a single token, a class token or a query of its own")
        if self.windowed:
            return self._window(image, windows, num_queries, num_keys)
        queries = self._tokens(image, num_queries)
        keys = queries if num_keys == num_queries else self._tokens(image, num_keys)
        return Layout(queries, keys, self._patch(image, queries))

    def refuse(self, reason: str) -> TypeError:
        """The error of a layer that cannot be observed."""
        return TypeError(f"{self.path} ({type(self.module).__name__}) is not supported: {reason}")

    def _tokens(self, image: ImageSize, number: int) -> Grid:
        told = self.grid(image) if self.grid else None
        prefixes = dict.fromkeys((0, 1) if self.prefix is None else (self.prefix, 0))
        for prefix in prefixes:
            if told and prefix + told[0] * told[1] == number:
                return Grid(*told, prefix)
        for prefix in prefixes:
            if number > prefix and (size := grid_by_stride(image, number - prefix)):
                return Grid(*size, prefix)
        grid = f"a grid of {told[0]}x{told[1]} patches" if told else "the patches of a grid"
        raise self.refuse(
            f"it attends over {number} tokens, not over {self.prefix or 0} and {grid} of {image[0]}x{image[1]} pixels"
        )

    @cached_property
    def stride(self) -> tuple[int, int] | None:
        """The pixels (down, across) from a patch of the embedding to the next; None where they are not known: as timm
        tells it, else of the convolutions and pools that the image goes through."""
        if hasattr(self.entry, "feat_ratio"):
            return tuple(self.entry.feat_ratio(as_scalar=False))  # type: ignore[union-attr, operator, return-value]
        modules: list[Any] = [*self.entry.modules()] if self.entry else []
        strides = [to_2tuple(module.stride) for module in modules if isinstance(module, STRIDED)]
        return (math.prod(s[0] for s in strides), math.prod(s[1] for s in strides)) if strides else None

    def _patch(self, image: ImageSize, grid: Grid) -> tuple[float, float]:
        """Pixels from a patch to the next: the stride of the embedding, doubled until its grid is this one; the side
        over the number of patches if it never is."""
        if self.stride is not None:
            first = (
                self.grid(image) if self.grid else [n / s for n, s in zip(image, self.stride, strict=True)]
            )
            for times in STAGES:
                sides = zip(grid.size, (n / times for n in first), strict=True)
                if all(side in (math.floor(n), math.ceil(n)) for side, n in sides):
                    return self.stride[0] * times, self.stride[1] * times
        return image[0] / grid.height, image[1] / grid.width

    @property
    def windowed(self) -> bool:
        """Whether it attends within windows."""
        return self.window is not None

    def _window(self, image: ImageSize, windows: int, num_queries: int, num_keys: int) -> Layout:
        assert self.window is not None
        if not num_queries == num_keys == math.prod(self.window):
            sides = "x".join(map(str, self.window))
            raise self.refuse(f"its windows have {num_queries} queries and {num_keys} keys, not {sides}")
        grid = Grid(*self.window)
        return Layout(grid, grid, self._patch_in_windows(image, windows))

    def whole_windows(self, image: ImageSize, windows: int) -> list[int]:
        """The windows of an image of (H, W) pixels that hold no padding, of so many, row by row.

        Raises:
            TypeError: all of them hold padding.
        """
        patch = self._patch_in_windows(image, windows)
        if self.window is None or math.isnan(patch[0]):
            return list(range(windows))
        grid = [math.ceil(n / p) for n, p in zip(image, patch, strict=True)]
        down, across = (side // window for side, window in zip(grid, self.window, strict=True))
        if not down * across:
            sides = "x".join(map(str, self.window))
            raise self.refuse(
                f"all of its windows of {sides} hold padding around the {grid[0]}x{grid[1]} patches"
            )
        per_row = math.ceil(grid[1] / self.window[1])
        return [row * per_row + column for row in range(down) for column in range(across)]

    def _patch_in_windows(self, image: ImageSize, windows: int) -> tuple[float, float]:
        """The same in windows: the stride is doubled until the windows are as many; NaN if they never are."""
        first = self.stride or (1, 1)
        for times in STAGES:
            patch = (first[0] * times, first[1] * times)
            sides = zip(image, patch, self.window or (1, 1), strict=True)
            if math.prod(math.ceil(math.ceil(n / p) / side) for n, p, side in sides) == windows:
                return patch
        return math.nan, math.nan


@dataclass(frozen=True)
class Tower:
    """A vision model as an adapter sees it.

    ``run`` computes it on a batch of images. ``unobserved`` gives the reason for each layer that is not observed.
    ``positions`` gives the embedding that a forward pass adds to the patches of a grid, as (D, d), or None.
    """

    run: Callable[[Tensor], Any]
    layers: list[AttentionLayer]
    unobserved: dict[str, str] = field(default_factory=dict)
    positions: Callable[[Grid, ImageSize], Float[Tensor, "D d"] | None] = lambda grid, image: None


def outermost_with(model: nn.Module, *names: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that have one of the attributes and lie in no other such module, by path.

    One that holds two of one type is a model or a stage, and passed over, as is the model itself where it holds one.
    """
    above: str | None = None
    for path, module in model.named_modules():
        if above is not None and path.startswith(above):
            continue
        if has_any(module, names):
            inner = [type(each) for each in module.modules() if each is not module and has_any(each, names)]
            if len(set(inner)) < len(inner) or (inner and module is model):
                continue
            above = f"{path}." if path else ""
            yield path, module


def has_any(module: nn.Module, names: Iterable[str]) -> bool:
    """Whether a module has one of the attributes."""
    return any(hasattr(module, name) for name in names)


def owner_of(model: nn.Module, path: str, *names: str) -> nn.Module:
    """The innermost module around ``path`` that has one of the attributes, else the model.

    Blocks are passed over: NextViT's have a ``patch_embed`` of their own, which takes in no image.
    """
    parts = path.split(".")
    ends = range(len((block_path(model, path) or path).split(".")))
    around = [model.get_submodule(".".join(parts[:end])) for end in ends]
    return next((module for module in reversed(around) if any(hasattr(module, n) for n in names)), model)


def with_blocks(model: nn.Module, layers: list[AttentionLayer]) -> list[AttentionLayer]:
    """The layers with the innermost module of a sequence that holds each and no other of them."""
    paths = [layer.path for layer in layers]
    found = []
    for layer in layers:
        block = block_path(model, layer.path)
        alone = block and not layer.windowed and sum(path.startswith(f"{block}.") for path in paths) == 1
        found.append(replace(layer, block=model.get_submodule(block)) if alone and block else layer)
    return found


def block_path(model: nn.Module, path: str) -> str | None:
    """The path of the innermost block around ``path``: a member of a sequence that is none itself."""
    sequences, parts = (nn.Sequential, nn.ModuleList), path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        around = model.get_submodule(".".join(parts[: end - 1]))
        inner = model.get_submodule(".".join(parts[:end]))
        if isinstance(around, sequences) and not isinstance(inner, sequences):
            return ".".join(parts[:end])
    return None

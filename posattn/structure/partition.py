"""A partition of the patches into sets. Source: arXiv 2210.09221, the data distribution."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Pairs


class Partition:
    """A partition of D patches into L sets S_1..S_L of the same size C = D / L.

    Args:
        labels: (D,) integers, the set 0..L-1 of each patch.

    Raises:
        TypeError: labels are not integers.
        ValueError: labels are not one-dimensional, not 0..L-1, or the sets differ in size.
    """

    def __init__(self, labels: Int[Tensor, " D"] | Sequence[int]) -> None:
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"partition labels must be integers, got {labels.dtype}")
        if labels.ndim != 1 or labels.numel() == 0:
            raise ValueError(f"partition labels must have shape (D,), got {tuple(labels.shape)}")
        if labels.min() < 0:
            raise ValueError(f"partition labels must be 0..L-1, got {int(labels.min())}")
        sizes = torch.bincount(labels)
        if (sizes != sizes[0]).any():
            raise ValueError(f"the sets of a partition must have one size, got sizes {sizes.tolist()[:20]}")
        self.labels = labels.long()
        self.num_patches, self.num_sets, self.set_size = len(labels), len(sizes), int(sizes[0])

    @classmethod
    def contiguous(cls, num_patches: int, set_size: int) -> "Partition":
        """Sets of consecutive patches: 0..C-1, C..2C-1, and so on. ValueError where C does not divide D."""
        checks.divides("set_size", set_size, "num_patches", num_patches)
        return cls(torch.arange(num_patches) // set_size)

    @classmethod
    def random(cls, num_patches: int, set_size: int, *, generator: Generator | None = None) -> "Partition":
        """A uniformly random partition into sets of size C. ValueError where C does not divide D."""
        contiguous = cls.contiguous(num_patches, set_size)
        return cls(contiguous.labels[torch.randperm(num_patches, generator=generator)])

    @classmethod
    def tiles(cls, grid: tuple[int, int], tile: tuple[int, int]) -> "Partition":
        """Tiles of (h, w) patches on an (H, W) grid, in row-major order. ValueError where they do not fit."""
        rows = checks.divides("tile height", tile[0], "grid height", grid[0])
        columns = checks.divides("tile width", tile[1], "grid width", grid[1])
        sets = torch.arange(rows * columns).reshape(rows, columns)
        return cls(sets.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1).flatten())

    @property
    def sets(self) -> Int[Tensor, "L C"]:
        """The patches of each set, in increasing order."""
        return self.labels.argsort(stable=True).reshape(self.num_sets, self.set_size)

    @property
    def same(self) -> Pairs:
        """Whether two patches share a set, the patch itself included."""
        return self.labels[:, None] == self.labels[None, :]

    def __repr__(self) -> str:
        return f"Partition(D={self.num_patches}, L={self.num_sets}, C={self.set_size})"

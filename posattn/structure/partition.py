"""Sets of patches: covers and partitions. Source of the partition: arXiv 2210.09221, the data distribution."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Integer
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Pairs


class Cover:
    """Sets S_1..S_L of D patches that may overlap, differ in size and leave patches out.

    Args:
        membership: (L, D) booleans, whether set ℓ holds patch j.

    Raises:
        TypeError: membership is not boolean.
        ValueError: it is not two-dimensional, or a set is empty.
    """

    def __init__(self, membership: Tensor | Sequence[Sequence[bool]]) -> None:
        membership = torch.as_tensor(membership).clone()  # the caller may change its own
        if membership.dtype != torch.bool:
            raise TypeError(f"membership must be boolean, got {membership.dtype}")
        if membership.ndim != 2 or membership.numel() == 0:
            raise ValueError(f"membership must have shape (L, D), got {tuple(membership.shape)}")
        self.membership: Bool[Tensor, "L D"] = membership
        self.num_sets, self.num_patches = membership.shape
        self.sizes: Int[Tensor, " L"] = membership.sum(1)
        if (self.sizes == 0).any():
            raise ValueError(f"every set must hold a patch, set {int(self.sizes.argmin())} is empty")

    @property
    def set_size(self) -> int:
        """C, the size of every set. Raises ValueError if the sets differ in size: each has its own in ``sizes``."""
        if (self.sizes != self.sizes[0]).any():
            raise ValueError(f"set_size: the sets must have one size, got sizes {self.sizes.tolist()[:20]}")
        return int(self.sizes[0])

    def as_partition(self, quantity: str) -> "Partition":
        """These sets as a partition, for a quantity that is defined for disjoint sets alone.

        Raises ValueError naming the quantity and the first patch in several sets.
        """
        counts = self.membership.sum(0)
        if (counts > 1).any():
            patch = int((counts > 1).int().argmax())
            sets = self.membership[:, patch].nonzero().flatten().tolist()
            raise ValueError(
                f"{quantity} is not defined for overlapping sets: patch {patch} is in sets {sets[:20]}"
            )
        return Partition(torch.where(counts == 1, self.membership.int().argmax(0), -1))

    @property
    def order(self) -> Int[Tensor, " D"]:
        """The patches set after set, those in no set at the end. Raises ValueError if sets overlap."""
        return self.as_partition("order").order

    @property
    def same(self) -> Pairs:
        """Whether two patches share a set, the patch itself included. Raises ValueError if sets overlap."""
        return self.as_partition("same").same

    def __repr__(self) -> str:
        least, most = int(self.sizes.min()), int(self.sizes.max())
        size = least if least == most else f"{least}..{most}"
        return f"{type(self).__name__}(D={self.num_patches}, L={self.num_sets}, C={size})"


class Partition(Cover):
    """Disjoint sets S_1..S_L of D patches; in the paper all of size C = D / L.

    Args:
        labels: (D,) integers, the set 0..L-1 of each patch, or -1 for a patch in no set.

    Raises:
        TypeError: labels are not integers.
        ValueError: labels are not one-dimensional, or one of 0..L-1 is missing.
    """

    def __init__(self, labels: Integer[Tensor, " D"] | Sequence[int]) -> None:
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"partition labels must be integers, got {labels.dtype}")
        if labels.ndim != 1 or labels.numel() == 0:
            raise ValueError(f"partition labels must have shape (D,), got {tuple(labels.shape)}")
        labels = labels.long().clone()  # unsigned integers have no -1; the caller may change its own
        if labels.min() < -1 or labels.max() < 0:
            raise ValueError(
                f"partition labels must be 0..L-1, or -1 for no set, got {int(labels.min())}..{int(labels.max())}"
            )
        used = labels[labels >= 0].unique()  # before an (L, D) tensor is built for a large label
        if int(used[-1]) >= len(used):
            missing = int((used != torch.arange(len(used), device=used.device)).int().argmax())
            raise ValueError(f"every set must hold a patch, set {missing} is empty")
        self.labels = labels
        super().__init__(self.labels == torch.arange(int(labels.max()) + 1, device=labels.device)[:, None])

    @classmethod
    def contiguous(cls, num_patches: int, set_size: int) -> "Partition":
        """Sets of consecutive patches: 0..C-1, C..2C-1, and so on. Raises ValueError if C does not divide D."""
        checks.divides("set_size", set_size, "num_patches", num_patches)
        return cls(torch.arange(num_patches) // set_size)

    @classmethod
    def random(cls, num_patches: int, set_size: int, *, generator: Generator | None = None) -> "Partition":
        """A uniformly random partition into sets of size C. Raises ValueError if C does not divide D."""
        contiguous = cls.contiguous(num_patches, set_size)
        return cls(contiguous.labels[torch.randperm(num_patches, generator=generator)])

    @classmethod
    def tiles(cls, grid: tuple[int, int], tile: tuple[int, int]) -> "Partition":
        """Tiles of (h, w) patches on an (H, W) grid, in row-major order. Raises ValueError if they do not fit."""
        for name, sides in (("grid", grid), ("tile", tile)):
            if not isinstance(sides, Sequence) or len(sides) != 2:
                raise ValueError(f"{name} must be a pair (height, width), got {sides!r}")
        rows = checks.divides("tile height", tile[0], "grid height", grid[0])
        columns = checks.divides("tile width", tile[1], "grid width", grid[1])
        sets = torch.arange(rows * columns).reshape(rows, columns)
        return cls(sets.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1).flatten())

    def as_partition(self, quantity: str) -> "Partition":
        """The partition itself."""
        return self

    @property
    def sets(self) -> Int[Tensor, "L C"]:
        """The patches of each set, in increasing order. Raises ValueError if the sets differ in size."""
        return self.order[: self.num_sets * self.set_size].reshape(self.num_sets, -1)

    @property
    def order(self) -> Int[Tensor, " D"]:
        """The patches set after set, those in no set at the end."""
        return torch.where(self.labels < 0, self.num_sets, self.labels).argsort(stable=True)

    @property
    def same(self) -> Pairs:
        """Whether two patches share a set, the patch itself included; never for a patch in no set."""
        return (self.labels[:, None] == self.labels[None, :]) & (self.labels >= 0)

"""Running mean and spread over images of what is measured on each."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RunningValues:
    """Mean and spread of values (k, h) per image. Image i belongs to group i mod ``groups``, each with a mean too."""

    def __init__(self, groups: int) -> None:
        self.count = 0
        self.in_group = torch.zeros(groups, dtype=torch.double)
        self.mean = self.squares = self.by_group = torch.zeros((), dtype=torch.double)

    def groups_of(self, images: int) -> Int[Tensor, " n"]:
        """The groups of the next images."""
        return (torch.arange(images) + self.count) % len(self.in_group)

    def add(self, values: Float[Tensor, "n k h"]) -> None:
        """Add the values of the next images, by the update of Chan, Golub and LeVeque (1979)."""
        n, mean, groups = len(values), values.mean(0), self.groups_of(len(values))
        if self.count == 0:
            self.by_group = values.new_zeros(len(self.in_group), *mean.shape)
        self.by_group.index_add_(0, groups, values)
        self.in_group += torch.bincount(groups, minlength=len(self.in_group))
        shift, total = mean - self.mean, self.count + n
        self.squares = self.squares + ((values - mean) ** 2).sum(0) + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    def stderr(self) -> Float[Tensor, "k h"]:
        """Standard errors of ``mean`` over images."""
        return (self.squares / (self.count - 1) / self.count).sqrt()

    @property
    def groups(self) -> list[int]:
        """The groups that have images."""
        return self.in_group.nonzero().flatten().tolist()

    def mean_over(self, groups: Sequence[int]) -> Float[Tensor, "k h"]:
        """The mean over the images of some groups."""
        return self.by_group[list(groups)].sum(0) / self.in_group[list(groups)].sum()

"""Running sums over images of one layer's attention: all that is kept, however many images there are."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posattn.vision.grid import Tokens, weights

GROUPS = 8
IMAGE_MEASURES = ("distance", "distance_px", "entropy", "locality", "prefix_share")


class LayerSums:
    """Of one layer: mean and spread over images of what is measured on each, and average maps.

    Image i belongs to group i mod 8. Maps are summed by group, so that what is measured on the average map has
    a standard error and can be found again on half of the images.

    Args:
        tokens: N tokens, D patches.
        radius: of ``locality``, in patches.
    """

    def __init__(self, tokens: Tokens, radius: float) -> None:
        self.tokens, self.radius = tokens, radius
        self.count = 0
        self.in_group = torch.zeros(GROUPS, dtype=torch.double)
        self.mean = self.squares = self.spread = torch.zeros(())
        self.maps = torch.zeros(())
        self._weights = torch.zeros(())

    def add(self, maps: Float[Tensor, "b h N N"], images: int) -> None:
        """Add the maps of a batch, one for all its images where they do not depend on the image.

        They are used up. ValueError where they are not finite.
        """
        if self.count == 0:
            self._begin(maps)
        values = image_measures(maps, self.tokens, self._weights)
        if not values.isfinite().all():
            raise ValueError(f"attention is not finite in {str(maps.dtype).removeprefix('torch.')}")
        self._add_values(values.expand(images, -1, -1).double())
        self._add_maps(maps, (torch.arange(images) + self.count) % GROUPS)
        self.count += images

    def _begin(self, maps: Tensor) -> None:
        h, N = maps.shape[1:3]
        self._weights = weights(self.tokens, self.radius).to(maps)
        self.maps = maps.new_zeros(GROUPS, h, N, N)
        self.spread = torch.zeros(GROUPS, h, dtype=torch.double)
        self.mean = torch.zeros(len(IMAGE_MEASURES), h, dtype=torch.double)
        self.squares = torch.zeros_like(self.mean)

    def _add_values(self, values: Float[Tensor, "n k h"]) -> None:
        """Mean and sum of squares about it, merged as Chan, Golub and LeVeque (1979) do."""
        values = values.cpu()
        n, mean = len(values), values.mean(0)
        shift = mean - self.mean
        self.squares = (
            self.squares + ((values - mean) ** 2).sum(0) + shift**2 * (self.count * n / (self.count + n))
        )
        self.mean = self.mean + shift * (n / (self.count + n))

    def _add_maps(self, maps: Float[Tensor, "b h N N"], groups: Int[Tensor, " n"]) -> None:
        uniform = 1 / maps.shape[-1]
        centred = maps.sub_(uniform) if len(maps) > 1 else maps - uniform  # one map may be the model's own
        spread = centred.flatten(2).norm(dim=2).double().cpu() ** 2
        for group in groups.unique().tolist():
            first = int((groups == group).nonzero()[0])
            self.maps[group] += centred.expand(len(groups), -1, -1, -1)[first::GROUPS].sum(0)
            self.spread[group] += spread.expand(len(groups), -1)[first::GROUPS].sum(0)
        self.in_group += torch.bincount(groups, minlength=GROUPS)

    @property
    def groups(self) -> list[int]:
        """The groups that have images."""
        return self.in_group.nonzero().flatten().tolist()

    def stderr(self) -> Float[Tensor, "k h"]:
        """Standard errors of ``mean`` over images."""
        return (self.squares / (self.count - 1) / self.count).sqrt()

    def average(self, groups: Sequence[int] = range(GROUPS)) -> Float[Tensor, "h N N"]:
        """The average map over the images of some groups, in float32 or better."""
        share = torch.zeros(GROUPS, dtype=torch.double)
        share[list(groups)] = 1 / self.in_group[list(groups)].sum()
        return torch.tensordot(share.to(self.maps), self.maps, 1).cpu() + 1 / self.maps.shape[-1]

    def moments(self, groups: Sequence[int]) -> tuple[Float[Tensor, " h"], float]:
        """The mean of |S - 1/N|² over the images of some groups, and how many they are."""
        count = self.in_group[list(groups)].sum().item()
        return self.spread[list(groups)].sum(0) / count, count


def image_measures(
    maps: Float[Tensor, "b h N N"], tokens: Tokens, weighed: Float[Tensor, "N N 4"]
) -> Float[Tensor, "b 5 h"]:
    """``IMAGE_MEASURES`` of each map."""
    sums = maps.flatten(2) @ weighed.flatten(0, 1)
    mass, within, apart, pixels = sums.unbind(-1)
    on_patches = mass.clamp(min=torch.finfo(mass.dtype).tiny)
    entropy = torch.special.entr(maps[:, :, tokens.prefix :]).sum(-1).mean(-1)
    prefix = 1 - mass / tokens.num_patches if tokens.prefix else torch.zeros_like(mass)
    return torch.stack([apart / on_patches, pixels / on_patches, entropy, within / on_patches, prefix], 1)

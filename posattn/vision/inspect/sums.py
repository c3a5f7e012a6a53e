"""Running sums over images of one layer's attention: all that is kept, however many images there are."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posattn.vision.grid import Layout, weights
from posattn.vision.inspect.lazy import LazyMaps, blocks

GROUPS = 8
IMAGE_MEASURES = ("distance", "distance_px", "entropy", "locality", "prefix_share", "sink_share")
PARTS = (
    "mass",
    "within",
    "apart",
    "pixels",
    "entropy",
    "prefix",
    "largest",
)  # the quantities behind the measures of an image


class LayerSums:
    """Of one layer: mean and spread over images of what is measured on each, and average maps.

    Image i belongs to group i mod ``groups``. Maps are summed by group, so that what is measured on the average map
    has a standard error and can be found again on half of the images. What is summed is S - 1/K, block by block,
    so that float32 suffices: a test compares the sum of many maps with one in float64.

    Args:
        layout: Q queries and K keys.
        radius: of ``locality``, in patches.
        groups: how many; memory grows with them.
    """

    def __init__(self, layout: Layout, radius: float, groups: int = GROUPS) -> None:
        self.layout, self.radius, self.num_groups = layout, radius, groups
        self.count = 0
        self.in_group = torch.zeros(groups, dtype=torch.double)
        self.mean = self.squares = self.spread = self.by_group = torch.zeros(())
        self.maps = torch.zeros(())
        self._weights: dict[str, Tensor] = {}

    def add(self, maps: LazyMaps, images: int) -> None:
        """Add the maps of a batch: one per image, one for all of them, or as many for each as there are windows.

        Raises ValueError if they are not finite.
        """
        if self.count == 0:
            self._begin(maps)
        if not maps.finite():
            raise ValueError(f"attention is not finite in {str(maps.dtype).removeprefix('torch.')}")
        windows, number = maps.expand(images), maps.shape[0]
        image_of = torch.arange(number) // windows if number > 1 else torch.zeros(1, dtype=torch.long)
        share = self._share(image_of, images)
        parts = torch.zeros(len(PARTS), min(images, number), maps.shape[1], dtype=torch.double)
        received = torch.zeros(number, maps.shape[1], maps.shape[3], dtype=maps.dtype, device=maps.device)
        for chosen, rows in blocks(maps):
            part, entropy = maps.block(chosen, rows)
            by_patches = part[:, :, max(self.layout.queries.prefix - rows.start, 0) :]
            received[chosen] += by_patches.sum(2)
            found = self._measured(part, entropy, rows).double().cpu()
            parts[:-1].index_add_(1, image_of[chosen], found)
            self._add_maps(part, rows, share[:, chosen])
        largest = received[..., self.layout.keys.prefix :].amax(-1).double().cpu()
        parts[PARTS.index("largest")].index_add_(0, image_of, largest)
        self._add_values(image_measures(parts, self.layout, windows).expand(images, -1, -1))
        self.count += images
        self.in_group += share.sum(1)

    def _share(self, image_of: Tensor, images: int) -> Float[Tensor, "G n"]:
        """How often each map counts in each group: a single one for all images as often as the group has images."""
        groups = (torch.arange(images) + self.count) % self.num_groups
        whose = torch.nn.functional.one_hot(groups, self.num_groups).double().T
        return whose.sum(1, keepdim=True) if len(image_of) == 1 else whose[:, image_of]

    def _begin(self, maps: LazyMaps) -> None:
        h, Q, K = maps.shape[1:]
        make: dict[str, Any] = {"dtype": maps.dtype, "device": maps.device}
        self._weights = {name: w.to(**make) for name, w in weights(self.layout, self.radius).items()}
        self.maps = torch.zeros(self.num_groups, h, Q, K, **make)
        self.spread = torch.zeros(self.num_groups, h, dtype=torch.double)
        self.mean = torch.zeros(len(IMAGE_MEASURES), h, dtype=torch.double)
        self.squares = torch.zeros_like(self.mean)
        self.by_group = torch.zeros(self.num_groups, *self.mean.shape, dtype=torch.double)

    def _measured(
        self, part: Float[Tensor, "b h q K"], entropy: Float[Tensor, "b h q"], rows: slice
    ) -> Float[Tensor, "6 b h"]:
        """``PARTS`` of a block but the last, summed over its patch queries."""
        queries, keys, patch = self.layout
        first = max(queries.prefix - rows.start, 0)
        by_patches = part[:, :, first:]
        mass = by_patches[..., keys.prefix :].sum((-1, -2))
        weighed = {name: by_weight(part, w[rows]) for name, w in self._weights.items()}
        pixels = weighed.get("pixels", weighed["apart"] * patch[0])
        prefix = by_patches[..., : keys.prefix].sum((-1, -2))
        return torch.stack(
            [mass, weighed["within"], weighed["apart"], pixels, entropy[:, :, first:].sum(-1), prefix]
        )

    def _add_values(self, values: Float[Tensor, "n k h"]) -> None:
        """Mean and sum of squares about it, merged as Chan, Golub and LeVeque (1979) do."""
        n, mean = len(values), values.mean(0)
        self.by_group.index_add_(0, (torch.arange(n) + self.count) % self.num_groups, values)
        shift = mean - self.mean
        self.squares = (
            self.squares + ((values - mean) ** 2).sum(0) + shift**2 * (self.count * n / (self.count + n))
        )
        self.mean = self.mean + shift * (n / (self.count + n))

    def _add_maps(self, part: Float[Tensor, "b h q K"], rows: slice, share: Float[Tensor, "G b"]) -> None:
        """Sums of maps and of squares, by group, of a block, which is used up."""
        centred = part.sub_(1 / part.shape[-1])
        squares = torch.linalg.vecdot(centred, centred).sum(-1).double().cpu()
        self.spread += share @ squares
        if len(part) == 1:
            for group in share[:, 0].nonzero().flatten().tolist():
                self.maps[group, :, rows].add_(centred[0], alpha=share[group, 0].item())
            return
        present = share.sum(1).nonzero().flatten()
        sums = share[present].to(part) @ centred.flatten(1)
        for group, total in zip(present.tolist(), sums, strict=True):
            self.maps[group, :, rows] += total.view(part.shape[1:])

    @property
    def groups(self) -> list[int]:
        """The groups that have images."""
        return self.in_group.nonzero().flatten().tolist()

    def stderr(self) -> Float[Tensor, "k h"]:
        """Standard errors of ``mean`` over images."""
        return (self.squares / (self.count - 1) / self.count).sqrt()

    def mean_over(self, groups: Sequence[int]) -> Float[Tensor, "k h"]:
        """``IMAGE_MEASURES`` on average over the images of some groups."""
        return self.by_group[list(groups)].sum(0) / self.in_group[list(groups)].sum()

    def average(self, groups: Sequence[int] | None = None) -> Float[Tensor, "h Q K"]:
        """The average map over the images of some groups, in float32 or better; default: of all."""
        chosen = self.groups if groups is None else list(groups)
        total = self.maps[chosen[0]].clone()
        for group in chosen[1:]:
            total += self.maps[group]
        return total.div_(self.in_group[chosen].sum().item()).add_(1 / self.maps.shape[-1]).cpu()

    def moments(self, groups: Sequence[int]) -> tuple[Float[Tensor, " h"], float]:
        """The mean of |S - 1/K|² over the maps of some groups, and how many they are."""
        count = self.in_group[list(groups)].sum().item()
        return self.spread[list(groups)].sum(0) / count, count


def by_weight(part: Float[Tensor, "b h q K"], weight: Float[Tensor, "q K"]) -> Float[Tensor, "b h"]:
    """The sum of each map's entries, weighed."""
    return part.flatten(2) @ weight.flatten()


def image_measures(parts: Float[Tensor, "7 n h"], layout: Layout, windows: int) -> Float[Tensor, "n 6 h"]:
    """``IMAGE_MEASURES`` of each image."""
    mass, within, apart, pixels, entropy, prefix, largest = parts
    on_patches, rows = mass.clamp(min=torch.finfo(mass.dtype).tiny), layout.queries.num_patches * windows
    distances = (apart / on_patches, pixels / on_patches)
    return torch.stack([*distances, entropy / rows, within / on_patches, prefix / rows, largest / rows], 1)

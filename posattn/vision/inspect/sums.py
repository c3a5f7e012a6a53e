"""Running sums over images of one layer's attention: all that is kept, however many images there are."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posattn.vision.grid import Layout, weights
from posattn.vision.inspect.lazy import LazyMaps, blocks
from posattn.vision.inspect.running import RunningValues

GROUPS = 8
PRODUCT_ENTRIES = 2**16  # of a map, multiplied at once
IMAGE_MEASURES = ("distance", "distance_px", "entropy", "locality", "prefix_share", "sink_share")
# the quantities behind the measures of an image
PARTS = (
    "mass",
    "within",
    "apart",
    "pixels",
    "entropy",
    "prefix",
    "largest",
)


class LayerSums:
    """Of one layer: mean and spread over images of what is measured on each, and average maps.

    Image i belongs to group i mod ``groups``. Maps, of windows their mean over an image, are summed by group, so that
    what is measured on the average map has a standard error and can be found again on half of the images. The sums are
    of S itself, not of S - 1/K: the logarithm of an average map needs its small entries to a relative precision, which
    the 1/K would take.

    Args:
        layout: Q queries and K keys.
        radius: of ``locality``, in patches.
        groups: how many; memory grows with them.
    """

    def __init__(self, layout: Layout, radius: float, groups: int = GROUPS) -> None:
        self.layout, self.radius, self.num_groups = layout, radius, groups
        self.values = RunningValues(groups)  # of IMAGE_MEASURES
        self.spread = self.maps = torch.zeros(())
        self.windowed = False  # whether an image has several maps
        self._weights: dict[str, Tensor] = {}

    @property
    def count(self) -> int:
        """How many images were added."""
        return self.values.count

    def add(self, maps: LazyMaps, images: int) -> None:
        """Add the maps of a batch: one per image, one for all of them, or as many for each as there are windows.

        Raises ValueError if they are not finite.
        """
        if self.count == 0:
            self._begin(maps)
        if not maps.finite():
            raise ValueError(f"attention is not finite in {str(maps.dtype).removeprefix('torch.')}")
        windows, number = maps.expand(images), maps.shape[0]
        self.windowed = windows > 1
        image_of = torch.arange(number) // windows if number > 1 else torch.zeros(1, dtype=torch.long)
        share = self._share(image_of, images)
        parts = torch.zeros(len(PARTS), min(images, number), maps.shape[1], dtype=torch.double)
        received = torch.zeros(number, maps.shape[1], maps.shape[3], dtype=maps.dtype, device=maps.device)
        for chosen, rows in blocks(maps):
            part, entropy = maps.block(chosen, rows)
            by_patches = part[:, :, max(self.layout.queries.prefix - rows.start, 0) :]
            received[chosen] += by_patches.sum(2)
            found = self._measured(part, entropy, rows).cpu().double()  # not every device has float64
            parts[:-1].index_add_(1, image_of[chosen], found)
            self._add_maps(part, rows, share[:, chosen])
        largest = received[..., self.layout.keys.prefix :].amax(-1).cpu().double()
        parts[PARTS.index("largest")].index_add_(0, image_of, largest)
        self.values.add(image_measures(parts, self.layout, windows).expand(images, -1, -1))

    def _share(self, image_of: Tensor, images: int) -> Float[Tensor, "G n"]:
        """How much each map counts in each group: a single one for all images as often as the group has images."""
        groups = self.values.groups_of(images)
        whose = torch.nn.functional.one_hot(groups, self.num_groups).double().T
        if len(image_of) == 1:
            return whose.sum(1, keepdim=True)
        return whose[:, image_of] * (images / len(image_of))  # the windows of an image count as one map

    def _begin(self, maps: LazyMaps) -> None:
        h, Q, K = maps.shape[1:]
        make: dict[str, Any] = {"dtype": maps.dtype, "device": maps.device}
        self._weights = {name: w.to(**make) for name, w in weights(self.layout, self.radius).items()}
        self.maps = torch.zeros(self.num_groups, h, Q, K, **make)
        self.spread = torch.zeros(self.num_groups, h, dtype=torch.double)

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

    def _add_maps(self, part: Float[Tensor, "b h q K"], rows: slice, share: Float[Tensor, "G b"]) -> None:
        """Sums of maps and of squares, by group, of a block, which is used up."""
        if len(part) == 1:
            for group in share[:, 0].nonzero().flatten().tolist():
                self.maps[group, :, rows].add_(part[0], alpha=share[group, 0].item())
        else:
            present = share.sum(1).nonzero().flatten()
            sums = share[present].to(part) @ part.flatten(1)
            for group, total in zip(present.tolist(), sums, strict=True):
                self.maps[group, :, rows] += total.view(part.shape[1:])
        centred = part.sub_(1 / part.shape[-1])
        self.spread += share @ torch.linalg.vecdot(centred, centred).sum(-1).cpu().double()

    def average(
        self, groups: Sequence[int] | None = None, heads: slice = slice(None)
    ) -> Float[Tensor, "h Q K"]:
        """The average maps of some heads over the images of some groups, in float32 or better; default: of all."""
        chosen = self.values.groups if groups is None else list(groups)
        total = self.maps[chosen[0], heads].clone()
        for group in chosen[1:]:
            total += self.maps[group, heads]
        return total.div_(self.images_in(chosen)).cpu()

    def images_in(self, groups: Sequence[int]) -> float:
        """How many images some groups have."""
        return self.values.in_group[list(groups)].sum().item()

    def total(self, groups: Sequence[int]) -> Float[Tensor, " h"]:
        """The mean of |S - 1/K|² over the maps of some groups."""
        return self.spread[list(groups)].sum(0) / self.images_in(groups)

    def products(self) -> Float[Tensor, "h G G"]:
        """By head, the products <M_g, M_g'> of the sums M_g of S - 1/K over each group, in float64."""
        uniform = self.values.in_group[:, None] / self.maps.shape[-1]
        found = torch.zeros(self.maps.shape[1], self.num_groups, self.num_groups, dtype=torch.double)
        for head, sums in enumerate(self.maps.flatten(2).unbind(1)):
            for part in sums.split(PRODUCT_ENTRIES, 1):
                part = part.cpu().double() - uniform
                found[head] += part @ part.T
        return found


def by_weight(part: Float[Tensor, "b h q K"], weight: Float[Tensor, "q K"]) -> Float[Tensor, "b h"]:
    """The sum of each map's entries, weighed."""
    return part.flatten(2) @ weight.flatten()


def image_measures(parts: Float[Tensor, "7 n h"], layout: Layout, windows: int) -> Float[Tensor, "n 6 h"]:
    """``IMAGE_MEASURES`` of each image."""
    mass, within, apart, pixels, entropy, prefix, largest = parts
    on_patches, rows = mass.clamp(min=torch.finfo(mass.dtype).tiny), layout.queries.num_patches * windows
    distances = (apart / on_patches, pixels / on_patches)
    return torch.stack([*distances, entropy / rows, within / on_patches, prefix / rows, largest / rows], 1)

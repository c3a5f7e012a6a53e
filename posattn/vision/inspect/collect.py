"""What is kept of a pass over the images, and the results made of it when the pass is over."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from posattn.vision.grid import Grid, Layout
from posattn.vision.inspect import average
from posattn.vision.inspect.lazy import LazyMaps
from posattn.vision.inspect.norms import norm_measures, patch_norms
from posattn.vision.inspect.results import Inspection, LayerResult, without_autocast
from posattn.vision.inspect.running import RunningValues
from posattn.vision.inspect.sums import IMAGE_MEASURES, LayerSums
from posattn.vision.inspect.tables import sets_of

FEWEST = 4  # patches that are worth dividing into sets
RECOVERABLE = 400  # patches: clustering more takes many seconds per head


@dataclass
class Collector:
    """The running sums of an inspection; ``finish`` turns those of a turn into its results.

    ``examples``: keep the maps of so many images. ``recover``: recover sets from the average maps.
    """

    into: Inspection
    examples: int = 0
    recover: bool = False
    sums: dict[str, LayerSums] = field(default_factory=dict)
    norms: dict[str, RunningValues] = field(default_factory=dict)
    digests: dict[str, Any] = field(default_factory=dict)  # of the images, by the first layer of each pass

    def see(self, path: str, maps: LazyMaps, layout: Layout, batch: Tensor) -> None:
        """Take in the maps of one layer on a batch. Raises ValueError if they are not finite."""
        images = len(batch)
        if any(path == turn[0] for turn in self.into.plan.turns):
            self.digests.setdefault(path, sha256()).update(batch.float().cpu().numpy().tobytes())
        sums = self.sums.setdefault(path, LayerSums(layout, self.into.radius, self.into.plan.groups))
        if maps.expand(images) == 1 and (chosen := self.missing(self.into.example_maps, path, images)):
            more = maps.select(slice(0, chosen)).half().cpu().expand(chosen, -1, -1, -1)
            append(self.into.example_maps, path, more)
        try:
            sums.add(maps, images)
        except ValueError as error:
            raise ValueError(
                f"{path}: {error} at image {sums.count} or after it; half precision overflows: try float32"
            ) from error

    def see_output(self, path: str, output: Any, layout: Layout, batch: Tensor) -> None:
        """Take in what the block of a layer gives on a batch."""
        found = patch_norms(output, len(batch), layout)
        if found is None:
            return
        if chosen := self.missing(self.into.example_norms, path, len(batch)):
            append(self.into.example_norms, path, found[:chosen].cpu())
        self.norms.setdefault(path, RunningValues(self.into.plan.groups)).add(norm_measures(found))

    def missing(self, held: dict[str, Tensor], path: str, images: int) -> int:
        """How many images of a batch are still wanted as examples."""
        return min(images, self.examples - (len(held[path]) if path in held else 0))

    def digest(self) -> str:
        """Of the images. Raises ValueError if a pass saw others than the one before, or in another order."""
        found = {one.hexdigest() for one in self.digests.values()}
        if len(found) > 1:
            self.sums.clear()  # examples of these layers are of other images
            raise ValueError(f"images were others, or in another order, in pass {len(self.digests)}")
        return found.pop()

    def finish(self) -> None:
        """``measure`` a turn. Raises ValueError also if its images are not those of the turns before."""
        self.digest()
        self.measure()

    def measure(self) -> None:
        """Measure the layers of a turn, and drop their sums. Raises ValueError for fewer than two images."""
        for path in list(self.sums):
            if self.sums[path].count < 2:
                raise ValueError(f"statistics over images need at least two, got {self.sums[path].count}")
            self.into.results[path] = self.measured(path)
            del self.sums[path]
        self.in_order_of_numbers()

    def in_order_of_numbers(self) -> None:
        """Put the results in the order of the layers' numbers: layers may run in another."""
        held = self.into.results
        ordered = {path: held[path] for path in self.into.numbers if path in held}
        held.clear()
        held.update(ordered)

    def finish_early(self) -> bool:
        """Measure what has seen two images or more; whether there is any such layer."""
        self.sums = {path: sums for path, sums in self.sums.items() if sums.count >= 2}
        self.measure()
        return bool(self.into.results)

    @without_autocast
    def measured(self, path: str) -> LayerResult:
        """The measures from the sums of a layer so far."""
        sums = self.sums[path]
        values, groups = sums.values, sums.values.groups
        estimate = average.estimator(sums, sets_of(sums.layout, self.into.partition))
        without = average.without_each(estimate, groups)
        errors = average.jackknife_error(without)
        found = dict(zip(average.AVERAGE_MEASURES, zip(estimate(groups), errors, strict=True), strict=True))
        found |= dict(zip(IMAGE_MEASURES, zip(values.mean, values.stderr(), strict=True), strict=True))
        without = torch.cat([without, average.without_each(values.mean_over, groups)], 1)
        maps, number = sums.average(), self.into.numbers[path]
        norms, sets = self.measured_norms(path), self.recovered(sums)
        return LayerResult(number, sums.count, sums.layout, found, maps, without, norms, sets)

    def measured_norms(self, path: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """``LayerResult.norms``."""
        if (values := self.norms.pop(path, None)) is None:
            return None
        without = average.without_each(values.mean_over, values.groups)
        return values.mean[:, 0], values.stderr()[:, 0], without[..., 0]

    def recovered(self, sums: LayerSums) -> tuple[Tensor, Tensor] | None:
        """``LayerResult.recovered``."""
        divisible = FEWEST <= sums.layout.queries.num_patches <= RECOVERABLE
        if not (self.recover and sums.layout.square and divisible):
            return None
        return average.recovered_sets(sums, num_sets(sums.layout.queries))


def append(held: dict[str, Tensor], path: str, more: Tensor) -> None:
    """Add to the examples of a layer."""
    held[path] = torch.cat([held[path], more]) if path in held else more


def num_sets(grid: Grid) -> int:
    """How many sets are looked for in a grid."""
    return max(2, round(grid.num_patches**0.5))

"""Attention statistics of a vision transformer: positionality, locality and structure of every head."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from posattn import checks
from posattn.structure.partition import Partition
from posattn.vision.grid import Grid, Layout, neighbourhoods, weights
from posattn.vision.inspect import arrays, average
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.adapters.layer import Tower
from posattn.vision.inspect.lazy import LazyMaps
from posattn.vision.inspect.plan import MEMORY, Plan, is_stream, peek, plan
from posattn.vision.inspect.positions import closeness_correlation, similarity
from posattn.vision.inspect.sums import IMAGE_MEASURES, LayerSums
from posattn.vision.inspect.view import grids_html
from posattn.vision.inspect.watch import observe

without_autocast = torch.autocast(
    "cpu", enabled=False
)  # what is measured is on the CPU, in float32 or better
COLUMNS = ("layer", "head", "measure", "value", "stderr")
MEASURES = ("positionality", *IMAGE_MEASURES, "association", "profile_association")
RECOVERABLE = 400  # patches: clustering more takes many seconds per head
WHOLE_MODEL = -1  # layer and head of what is measured once per model


def inspect_attention(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    partition: Partition | None = None,
    *,
    radius: float = 1.5,
    layers: Sequence[int] | None = None,
    memory: float = MEMORY,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Attention statistics of every head of a vision transformer over images, fused attention left on.

    Only running sums are kept: memory does not grow with the images. Queries are patches except where noted.

    ======================  ====================================================================================
    positionality           share of the attention's variance over images and entries (of all tokens) that its
                            average map explains, in [0, 1] and 1 for positional attention, corrected for noise:
                            see ``average.positionality``
    distance, distance_px   mean distance of attention from patches to patches, in patches and in pixels
    entropy                 mean entropy of a patch's row over all tokens, in nats
    locality                share of the attention from patches to patches that lies within ``radius``
    prefix_share            share of the patches' attention that falls on class token and registers
    sink_share              largest share of the patches' attention that falls on one patch of the image
    association             patch association of the average map with ``partition``; without one, with the grid
                            neighbourhoods of 3x3 patches: ``average.association``
    profile_association     the same for the nearest patches by profile: ``average.profile_association``
    pos_embed_similarity    rank correlation of the similarity of positional embeddings with nearness; one row,
                            of layer and head -1, without standard error, where there are any
    ======================  ====================================================================================

    Associations are NaN in layers whose queries and keys differ (pooled attention) and, with a partition, in
    layers of another number of patches. Windowed attention is measured within its windows.

    Args:
        model: of timm, torchvision, transformers or open_clip, also inside wrappers: see docs/inspect-models.md.
            Layers are numbered in the model's order.
        images: (n, c, H, W) of at least two images, as the model takes them; or an iterable of such batches,
            of tuples that begin with one (a data loader), or of mappings that hold one (``pixel_values``).
        partition: sets of the D patches, row by row.
        radius: in patches.
        layers: numbers of the layers to inspect; default: all.
        memory: bytes of running sums. Where they do not fit, layers are inspected in several passes.
        batch_size: images computed together; default: by the number of tokens.

    Returns:
        A row for each layer, head and measure: columns layer, head, measure, value, stderr. Standard errors
        are over images; those of what is measured on the average map are a jackknife over groups of images.
        ``table.attrs`` holds ``images`` (how many), ``layers`` (their paths), ``numbers``, ``left_out`` (paths of
        other attention, and why it is left out), ``grids`` (rows and columns of each layer's patches), ``grid``
        (of the first), and ``references`` (by layer, what a uniform map scores by each measure, and a random
        order in the associations), ``reference`` (of the first).

    Raises:
        TypeError, ValueError: a model without attention or with one that is not supported (its path is
            named), images of another size than the model's or of several grids, fewer than two of them, a
            partition of another length, attention that is not finite. What goes wrong after two images has the
            table of what was finished as its ``table``.
    """
    return inspect_model(
        model, images, partition, radius=radius, layers=layers, memory=memory, batch_size=batch_size
    ).table()


@dataclass(frozen=True)
class LayerResult:
    """The results of one layer: by measure its values and standard errors (h,), and the average map.

    ``without`` has the measures (``average.AVERAGE_MEASURES``, then ``sums.IMAGE_MEASURES``) without each of G groups
    of images in turn.
    """

    number: int
    images: int
    layout: Layout
    measures: dict[str, tuple[Tensor, Tensor]]
    average: Float[Tensor, "h Q K"]
    without: Float[Tensor, "G k h"]
    recovered: tuple[Int[Tensor, "h D"], Float[Tensor, " h"]] | None = None


@dataclass
class Inspection:
    """A running or finished inspection: ``results`` by path, and the maps of the first images."""

    tower: Tower
    numbers: dict[str, int]
    plan: Plan
    image_size: tuple[int, int]
    partition: Partition | None = None
    radius: float = 1.5
    examples: int = 0
    recover: bool = False
    sums: dict[str, LayerSums] = field(default_factory=dict)
    results: dict[str, LayerResult] = field(default_factory=dict)
    example_maps: dict[str, Float[Tensor, "e h Q K"]] = field(default_factory=dict)
    digest: Any = field(
        default_factory=sha256
    )  # of the images, by which two inspections know that theirs are the same

    def see(self, path: str, maps: LazyMaps, layout: Layout, batch: Tensor) -> None:
        """Take in the maps of one layer on a batch."""
        images = len(batch)
        if path == self.plan.turns[0][0]:
            self.digest.update(batch.float().cpu().numpy().tobytes())
        sums = self.sums.setdefault(path, LayerSums(layout, self.radius, self.plan.groups))
        windows, held = maps.expand(images), self.example_maps.get(path)
        missing = self.examples - (0 if held is None else len(held))
        if missing > 0 and windows == 1:
            chosen = slice(0, min(missing, images))
            more = maps.select(chosen).half().cpu().expand(chosen.stop, -1, -1, -1)
            self.example_maps[path] = more if held is None else torch.cat([held, more])
        try:
            sums.add(maps, images)
        except ValueError as error:
            raise ValueError(
                f"{path}: {error} at image {sums.count} or after it; half precision overflows: try float32"
            ) from error

    def finish(self) -> None:
        """Measure the layers of a turn whose images have all been seen, and drop their sums."""
        for path in list(self.sums):
            self.results[path] = self.measured(path)
            del self.sums[path]

    @without_autocast
    def measured(self, path: str) -> LayerResult:
        """The measures from the sums of a layer so far. Raises ValueError for fewer than two images."""
        sums = self.sums[path]
        if sums.count < 2:
            raise ValueError(f"statistics over images need at least two, got {sums.count}")
        own = sets_of(sums.layout, self.partition)
        estimate = partial(average.measure_average, sums, own)
        values, without = estimate(sums.groups), average.without_each(estimate, sums.groups)
        errors = average.jackknife_error(without)
        found = dict(zip(average.AVERAGE_MEASURES, zip(values, errors, strict=True), strict=True))
        found |= dict(zip(IMAGE_MEASURES, zip(sums.mean, sums.stderr(), strict=True), strict=True))
        sets = None
        if self.recover and sums.layout.square and sums.layout.queries.num_patches <= RECOVERABLE:
            sets = average.recovered_sets(sums, num_sets(sums.layout.queries))
        without = torch.cat([without, average.without_each(sums.mean_over, sums.groups)], 1)
        return LayerResult(self.numbers[path], sums.count, sums.layout, found, sums.average(), without, sets)

    @property
    def images(self) -> int:
        """How many images every layer of the first turn has seen."""
        if self.results:
            return min(result.images for result in self.results.values())
        return min((self.sums[path].count if path in self.sums else 0) for path in self.plan.turns[0])

    @cached_property
    @without_autocast
    def similarity(self) -> tuple[Grid, Float[Tensor, "D D"]] | None:
        """Similarity of the positional embeddings that are added to patches, and their grid; None without any."""
        for grid in dict.fromkeys(layout.queries for layout in self.layouts):
            embedded = self.tower.positions(grid, self.image_size)
            if embedded is not None:
                return grid, similarity(embedded)
        return None

    @property
    def layouts(self) -> list[Layout]:
        """Of each layer that is inspected."""
        return [self.plan.layouts[path] for path in self.numbers]

    def table(self) -> pd.DataFrame:
        """The table of ``inspect_attention``. Raises ValueError for fewer than two images."""
        unfinished = [path for path in self.sums if self.sums[path].count >= 2]
        results = {**self.results, **{path: self.measured(path) for path in unfinished}}
        if not results:
            raise ValueError(f"statistics over images need at least two, got {self.images}")
        rows = [row for path in self.numbers if path in results for row in rows_of(results[path])]
        if self.similarity is not None:
            grid, similar = self.similarity
            value = closeness_correlation(similar, grid)
            rows.append((WHOLE_MODEL, WHOLE_MODEL, "pos_embed_similarity", value, math.nan))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table.attrs.update(self.attributes(results))
        return table

    def maps(self, layer: int, image: int | None = None) -> NDArray[Any]:
        """The maps (h, Q, K) of a layer on average over the images, or on example ``image``, float32 or better.

        Tokens are class token and registers, then patches row by row. Examples are kept in half precision.
        ValueError for a layer that was not inspected or an image beyond ``examples``.
        """
        return arrays.layer_maps(self, layer, image).numpy()

    def attention_from(
        self, layer: int, head: int, query: arrays.Query, image: int | None = None
    ) -> NDArray[Any]:
        """Where a token looks: its row of a map over the (H, W) grid of patches.

        Args:
            layer: its number in the model.
            head: its number in the layer.
            query: (row, column) of a patch, or the number of a class token or register.
            image: an example image; default: the average over images.

        Raises:
            ValueError: there is no such layer, head, query or example.
        """
        return arrays.attention_from(self, layer, head, query, image)

    def rollout(self, image: int | None = None) -> NDArray[Any]:
        """Attention rollout (N, N) through all layers, on the average maps or on example ``image``.

        That of the average maps is not the average of the images' rollouts. ValueError where layers are missing,
        windowed or pooled. See ``rollout.attention_rollout``.
        """
        return arrays.rollout(self, image)

    def _repr_html_(self) -> str:
        """The measures as small heat maps, in a notebook."""
        return grids_html(self.table())

    def attributes(self, results: dict[str, LayerResult]) -> dict[str, Any]:
        """``table.attrs``."""
        done = [path for path in self.numbers if path in results]
        layouts = [results[path].layout for path in done]
        references = [reference(layout, self.radius, self.partition) for layout in layouts]
        return {
            "images": min(result.images for result in results.values()),
            "layers": done,
            "numbers": [self.numbers[path] for path in done],
            "left_out": {**self.tower.left_out, **self.plan.left_out},
            "grid": list(layouts[0].queries.size),
            "grids": [list(layout.queries.size) for layout in layouts],
            "reference": references[0],
            "references": references,
        }


def inspect_model(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    partition: Partition | None = None,
    *,
    radius: float = 1.5,
    layers: Sequence[int] | None = None,
    memory: float = MEMORY,
    batch_size: int | None = None,
    examples: int = 0,
    recover: bool = False,
    announce: Callable[[Plan], None] = lambda plan: None,
) -> Inspection:
    """The inspection behind ``inspect_attention``.

    Args:
        examples: keep the maps of so many images.
        recover: recover sets from the average maps.
        announce: called with the plan before the pass over the images.

    Other arguments and errors are those of ``inspect_attention``.
    """
    radius = checks.finite("radius", radius, 0.0)
    tower = find_attention(model)
    numbers = chosen_layers(tower, layers)
    chosen = Tower(tower.run, [tower.layers[n] for n in numbers.values()], tower.left_out, tower.positions)
    first, images = peek(images)
    planned = plan(model, chosen, first, checks.positive("memory", memory), batch_size, examples)
    check_partition(partition, planned.layouts.values())
    if len(planned.turns) > 1 and is_stream(images):
        raise ValueError(
            f"images can be gone through once, but {len(planned.turns)} passes are needed within memory={memory:g}: "
            "give a list or a data loader, more memory, or fewer layers"
        )
    announce(planned)
    numbers = {path: number for path, number in numbers.items() if path in planned.layouts}
    size = (first.shape[2], first.shape[3])
    inspection = Inspection(chosen, numbers, planned, size, partition, radius, examples, recover)
    try:
        for turn in planned.turns:
            by_path = {layer.path: layer for layer in chosen.layers if layer.path in turn}
            observe(model, chosen.run, images, by_path, inspection.see, planned.batch_size)
            inspection.finish()
    except BaseException as error:
        if inspection.images >= 2:
            error.table = inspection.table()  # type: ignore[attr-defined]
            error.add_note(f"(the table of the first {inspection.images} images is finished)")
        raise
    return inspection


def chosen_layers(tower: Tower, layers: Sequence[int] | None) -> dict[str, int]:
    """The paths of the chosen layers with their numbers; Raises ValueError for one that does not exist."""
    numbers = range(len(tower.layers)) if layers is None else layers
    if missing := [number for number in numbers if number not in range(len(tower.layers))]:
        raise ValueError(f"the model has layers 0..{len(tower.layers) - 1}, got layers={missing}")
    return {tower.layers[number].path: number for number in sorted(set(numbers))}


def rows_of(result: LayerResult) -> list[tuple[int, int, str, float, float]]:
    """The rows of a layer."""
    return [
        (result.number, head, name, value, error)
        for name in MEASURES
        for head, (value, error) in enumerate(
            zip(*(each.tolist() for each in result.measures[name]), strict=True)
        )
    ]


def num_sets(grid: Grid) -> int:
    """How many sets are looked for in a grid."""
    return max(2, round(grid.num_patches**0.5))


def sets_of(layout: Layout, partition: Partition | None) -> Bool[Tensor, "D D"] | None:
    """For each patch, the patches of its set or of its neighbourhood; None if a layer has no such patches."""
    if not layout.square:
        return None
    if partition is None:
        return neighbourhoods(layout.queries)
    return partition.same if partition.num_patches == layout.queries.num_patches else None


def check_partition(partition: Partition | None, layouts: Iterable[Layout]) -> None:
    """Raise ValueError for a partition of another number of patches than any layer has."""
    grids = list(dict.fromkeys(layout.queries for layout in layouts))
    if partition is not None and all(partition.num_patches != grid.num_patches for grid in grids):
        counts = " or ".join(f"{grid} = {grid.num_patches}" for grid in grids)
        raise ValueError(f"partition must be of the {counts} patches, got {partition}")


def reference(layout: Layout, radius: float, partition: Partition | None) -> dict[str, float]:
    """The value of each measure for a uniform map, and chance for the associations."""
    Q, K, keys = layout.queries.num_patches, layout.keys.num_tokens, layout.keys.num_patches
    by = {name: weight.sum().item() / (Q * keys) for name, weight in weights(layout, radius).items()}
    found = {
        "distance": by["apart"],
        "distance_px": by.get("pixels", by["apart"] * layout.patch[0]),
        "entropy": math.log(K),
        "locality": by["within"],
        "prefix_share": layout.keys.prefix / K,
        "sink_share": 1 / K,
    }
    own = sets_of(layout, partition)
    if own is None:
        return found
    return {
        **found,
        "association": average.chance(own, itself=True),
        "profile_association": average.chance(own, itself=False),
    }

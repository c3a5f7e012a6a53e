"""Attention statistics of a vision transformer: positionality, locality and structure of every head."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import index
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from posattn import checks
from posattn.structure.partition import Partition
from posattn.vision.grid import Layout
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.adapters.layer import Tower
from posattn.vision.inspect.collect import Collector
from posattn.vision.inspect.plan import MEMORY, Plan, is_stream, peek, plan
from posattn.vision.inspect.results import Inspection
from posattn.vision.inspect.watch import observe

__all__ = ["Inspection", "inspect_attention", "inspect_model"]


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
    high_norm_share,        share of the patches whose norm after the layer's block is above 3 times the median of
    largest_norm            their image, and the largest norm over the median: artefact tokens (``norms``); one row
                            each per layer, of head -1, where the block gives the layer's tokens
    pos_embed_similarity    rank correlation of the similarity of positional embeddings with nearness; one row,
                            of layer and head -1, without standard error, where there are any
    ======================  ====================================================================================

    Associations are NaN in layers whose queries and keys differ (pooled attention) and, with a partition, in
    layers of another number of patches. Windowed attention is measured within its windows; those that hold padding
    are left out.

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
        are over images; those of what is measured on the average map are a jackknife over groups of images, which is
        too large for associations, as they count entries by their rank (docs/inspect.md).
        ``table.attrs`` holds ``images`` (how many), ``layers`` (their paths), ``numbers``, ``unobserved`` (paths of
        other attention, and why it is not observed), ``grids`` (rows and columns of each layer's patches), ``grid``
        (of the first), and ``references`` (by layer, what a uniform map scores by each measure, and a random
        order in the associations), ``reference`` (of the first).

    Raises:
        TypeError, ValueError: a model without attention or with one that is not supported (its path is
            named), images of another size than the model's or of several grids, fewer than two of them, a stream or a
            loader that shuffles where several passes are needed, a partition of another length, attention that is
            not finite. ``inspect_model(on_error=...)`` hands over what was measured before.
    """
    return inspect_model(
        model, images, partition, radius=radius, layers=layers, memory=memory, batch_size=batch_size
    ).table()


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
    on_error: Callable[[BaseException, Inspection], None] = lambda error, measured: None,
) -> Inspection:
    """The inspection behind ``inspect_attention``.

    Args:
        examples: keep the maps of so many images.
        recover: recover sets from the average maps.
        announce: called with the plan before the pass over the images.
        on_error: called with an error that ends the pass, and what was measured on the images before it.

    Other arguments and errors are those of ``inspect_attention``.
    """
    radius, memory = checks.finite("radius", radius, 0.0), checks.positive("memory", memory)
    examples = checks.natural("examples", examples)
    batch_size = None if batch_size is None else checks.positive_int("batch_size", batch_size)
    tower = find_attention(model)
    numbers = chosen_layers(tower, layers)
    chosen = replace(tower, layers=[tower.layers[n] for n in numbers.values()])
    first, images = peek(images)
    planned = plan(model, chosen, first, memory, batch_size, examples)
    check_partition(partition, planned.layouts.values())
    if len(planned.turns) > 1:
        check_passes(images, first, f"{len(planned.turns)} passes are needed within memory={memory:g}")
    announce(planned)
    numbers = {path: number for path, number in numbers.items() if path in planned.layouts}
    size = (first.shape[2], first.shape[3])
    inspection = Inspection(tower, planned, numbers, size, partition, radius)
    collector = Collector(inspection, examples, recover)
    try:
        for turn in planned.turns:
            by_path = {layer.path: layer for layer in chosen.layers if layer.path in turn}
            observe(
                model,
                chosen.run,
                images,
                by_path,
                collector.see,
                planned.batch_size,
                see_output=collector.see_output,
            )
            collector.finish()
    except BaseException as error:
        if collector.finish_early():
            on_error(error, inspection)
        raise
    return replace(inspection, digest=collector.digest())


def chosen_layers(tower: Tower, layers: Any) -> dict[str, int]:
    """The paths of the chosen layers with their numbers. TypeError, ValueError: no list of layers."""
    if layers is not None and not isinstance(layers, Iterable):
        raise TypeError(f"layers must be a list of numbers, got {layers!r}")
    numbers = list(map(index, range(len(tower.layers)) if layers is None else layers))
    if not numbers:
        raise ValueError("layers must name at least one layer, got none")
    if missing := [number for number in numbers if number not in range(len(tower.layers))]:
        raise ValueError(f"the model has layers 0..{len(tower.layers) - 1}, got layers={missing}")
    return {tower.layers[number].path: number for number in sorted(set(numbers))}


def check_passes(images: Any, first: Tensor, needed: str) -> None:
    """Raise ValueError for images that cannot be gone through several times, or are others each time."""
    reason = "can be gone through once"
    if not is_stream(images):
        if torch.equal(peek(images)[0], first):
            return
        reason = "come in another order each time, or are drawn anew"
    raise ValueError(
        f"images {reason}, but {needed}: give a list or a data loader without shuffling, more memory, or fewer layers"
    )


def check_partition(partition: Any, layouts: Iterable[Layout]) -> None:
    """Raise TypeError for what is no partition, ValueError for one of another number of patches than any layer has."""
    if partition is None:
        return
    checks.of_type("partition", partition, Partition)
    grids = list(dict.fromkeys(layout.queries for layout in layouts))
    if all(partition.num_patches != grid.num_patches for grid in grids):
        counts = " or ".join(f"{grid} = {grid.num_patches}" for grid in grids)
        raise ValueError(f"partition must be of the {counts} patches, got {partition}")

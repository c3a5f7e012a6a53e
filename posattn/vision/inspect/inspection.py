"""How positional, how local, how structured is the attention of any timm ViT."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from posattn import checks
from posattn.structure.partition import Partition
from posattn.vision.grid import Tokens, neighbourhoods, tokens_of, weights
from posattn.vision.inspect import average
from posattn.vision.inspect.positions import closeness_correlation, embedding_similarity
from posattn.vision.inspect.sums import IMAGE_MEASURES, LayerSums, image_measures
from posattn.vision.inspect.watch import attention_layers, watch_attention

COLUMNS = ("layer", "head", "measure", "value", "stderr")
MEASURES = ("positionality", *IMAGE_MEASURES, "association", "profile_association")
WHOLE_MODEL = -1  # layer and head of what is measured once a model


def inspect_attention(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    partition: Partition | None = None,
    *,
    radius: float = 1.5,
) -> pd.DataFrame:
    """Attention statistics of every head of a timm ViT over images, fused attention left on.

    One pass in which only running sums are kept: memory does not grow with the images. Queries are patches
    except where said.

    ======================  ====================================================================================
    positionality           share of the attention's variance over images and entries (of all tokens) that its
                            average map explains, in [0, 1] and 1 for positional attention, corrected for noise:
                            see ``average.positionality``
    distance, distance_px   mean distance of attention from patches to patches, in patches and in pixels
    entropy                 mean entropy of a patch's row over all tokens, in nats
    locality                share of the attention from patches to patches that lies within ``radius``
    prefix_share            share of the patches' attention that falls on class token and registers
    association             patch association of the average map with ``partition``; without one, with the grid
                            neighbourhoods of 3x3 patches: ``average.association``
    profile_association     the same of the nearest patches by profile: ``average.profile_association``
    pos_embed_similarity    rank correlation of the similarity of positional embeddings with nearness; one row,
                            of layer and head -1, without standard error, where there are any
    ======================  ====================================================================================

    Args:
        model: layers are numbered as they stand in it.
        images: (n, c, H, W) of at least two images, as the model takes them; or an iterable of such batches,
            or of tuples that begin with one (a data loader).
        partition: sets of the D patches, row by row.
        radius: in patches.

    Returns:
        A row for each layer, head and measure: columns layer, head, measure, value, stderr. Standard errors
        are over images; those of what is measured on the average map are a jackknife over groups of images.
        ``table.attrs`` holds ``images`` (how many), ``layers`` (their paths), ``grid`` and ``reference``: what
        a uniform map scores by each measure, and a random order in the associations.

    Raises:
        TypeError, ValueError: a model without attention or with one that is not supported (its path is
            named), images of another size than the model's, fewer than two of them, a partition of another
            length, attention that is not finite. What goes wrong after two images has the table of what was
            finished as its ``table``.
    """
    return inspect_model(model, images, partition, radius=radius).table()


@dataclass
class Inspection:
    """What a pass over images leaves: the running sums of each layer, and the maps of the first images."""

    model: nn.Module
    layers: dict[str, nn.Module]
    partition: Partition | None
    radius: float
    examples: int = 0
    sums: dict[str, LayerSums] = field(default_factory=dict)
    example_maps: dict[str, Float[Tensor, "e h N N"]] = field(default_factory=dict)
    tokens: Tokens | None = None

    @property
    def images(self) -> int:
        """How many images every layer has seen."""
        return min((self.sums[path].count if path in self.sums else 0) for path in self.layers)

    @property
    def grid(self) -> Tokens:
        """The tokens. ValueError before the first image."""
        if self.tokens is None:
            raise ValueError("images is empty: statistics over images need at least two")
        return self.tokens

    @property
    def own(self) -> Bool[Tensor, "D D"]:
        """For each patch, the patches of its set or of its neighbourhood."""
        return neighbourhoods(self.grid) if self.partition is None else self.partition.same

    def see(self, path: str, maps: Tensor, batch: Tensor) -> None:
        """Take in the maps of one layer on a batch."""
        if self.tokens is None:
            self.tokens = tokens_of(self.model, (batch.shape[2], batch.shape[3]), maps.shape[-1], path)
            check_partition(self.partition, self.tokens)
        if maps.shape[-1] != self.tokens.num_tokens:
            raise TypeError(
                f"{path} is not supported: it attends over {maps.shape[-1]} tokens, "
                f"layers before it over {self.tokens.num_tokens}"
            )
        held = self.example_maps.get(path, maps[:0].cpu())
        if len(held) < self.examples:
            more = maps.expand(len(batch), -1, -1, -1)[: self.examples - len(held)]
            self.example_maps[path] = torch.cat([held, more.cpu()])
        sums = self.sums.setdefault(path, LayerSums(self.tokens, self.radius))
        try:
            sums.add(maps, len(batch))
        except ValueError as error:
            raise ValueError(
                f"{path}: {error} at image {sums.count} or after it; half precision overflows: try float32"
            ) from error

    def table(self) -> pd.DataFrame:
        """The table of ``inspect_attention``. ValueError for fewer than two images."""
        if self.images < 2:
            raise ValueError(f"statistics over images need at least two, got {self.images}")
        rows = [row for layer, path in enumerate(self.layers) for row in self._rows(layer, self.sums[path])]
        similarity = embedding_similarity(self.model, self.grid)
        if similarity is not None:
            value = closeness_correlation(similarity, self.grid)
            rows.append((WHOLE_MODEL, WHOLE_MODEL, "pos_embed_similarity", value, math.nan))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        grid = [self.grid.height, self.grid.width]
        reference = {**uniform(self.grid, self.radius), **self._chance()}
        table.attrs = {
            "images": self.images,
            "layers": list(self.layers),
            "grid": grid,
            "reference": reference,
        }
        return table

    def _rows(self, layer: int, sums: LayerSums) -> list[tuple[int, int, str, float, float]]:
        measure = partial(average.measure_average, sums, self.own)
        values, errors = average.jackknife(measure, sums.groups)
        held = {
            **dict(zip(average.AVERAGE_MEASURES, zip(values, errors, strict=True), strict=True)),
            **dict(zip(IMAGE_MEASURES, zip(sums.mean, sums.stderr(), strict=True), strict=True)),
        }
        return [
            (layer, head, name, value, error)
            for name in MEASURES
            for head, (value, error) in enumerate(zip(*(of.tolist() for of in held[name]), strict=True))
        ]

    def _chance(self) -> dict[str, float]:
        return {
            "association": average.chance(self.own, itself=True),
            "profile_association": average.chance(self.own, itself=False),
        }


def inspect_model(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    partition: Partition | None = None,
    *,
    radius: float = 1.5,
    examples: int = 0,
) -> Inspection:
    """What ``inspect_attention`` makes its table of, with the maps of the first ``examples`` images.

    Arguments and errors are those of ``inspect_attention``.
    """
    layers = attention_layers(model)
    inspection = Inspection(model, layers, partition, checks.finite("radius", radius, 0.0), examples)
    try:
        watch_attention(model, images, layers, inspection.see)
    except BaseException as error:
        if inspection.tokens is not None and inspection.images >= 2:
            error.table = inspection.table()  # type: ignore[attr-defined]
            error.add_note(f"(the table of the first {inspection.images} images is finished)")
        raise
    return inspection


def check_partition(partition: Partition | None, tokens: Tokens) -> None:
    """ValueError for a partition of another number of patches than the grid has."""
    if partition is not None and partition.num_patches != tokens.num_patches:
        raise ValueError(
            f"partition must be of the {tokens.height}x{tokens.width} = {tokens.num_patches} patches, "
            f"got {partition}"
        )


def uniform(tokens: Tokens, radius: float) -> dict[str, float]:
    """What a map that attends to all tokens alike scores by the measures of each image."""
    N = tokens.num_tokens
    values = image_measures(torch.full((1, 1, N, N), 1 / N).double(), tokens, weights(tokens, radius))
    return dict(zip(IMAGE_MEASURES, values.flatten().tolist(), strict=True))

"""What an inspection found: measures and average maps by layer, maps of the first images, and the table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from posattn.structure.partition import Partition
from posattn.vision.grid import Grid, Layout
from posattn.vision.inspect import arrays
from posattn.vision.inspect.adapters.layer import Tower
from posattn.vision.inspect.plan import Plan
from posattn.vision.inspect.positions import closeness_correlation, similarity
from posattn.vision.inspect.tables import attributes, make_table
from posattn.vision.inspect.view import grids_html

# what is measured is on the CPU, in float32 or better
without_autocast = torch.autocast("cpu", enabled=False)


@dataclass(frozen=True)
class LayerResult:
    """The results of one layer: by measure its values and standard errors (h,), and the average map.

    ``without`` has the measures (``average.AVERAGE_MEASURES``, then ``sums.IMAGE_MEASURES``) without each of G groups
    of images in turn. ``norms`` has the values and standard errors (2,) of ``norms.NORM_MEASURES``, and the values
    (G, 2) without each group; None where the block's output does not have the layer's tokens.
    """

    number: int
    images: int
    layout: Layout
    measures: dict[str, tuple[Tensor, Tensor]]
    average: Float[Tensor, "h Q K"]
    without: Float[Tensor, "G k h"]
    norms: tuple[Tensor, Tensor, Tensor] | None = None
    recovered: tuple[Int[Tensor, "h D"], Float[Tensor, " h"]] | None = None


@dataclass(frozen=True)
class Inspection:
    """A finished inspection: ``results`` by path, and of the first images the maps and the norms of the patches.

    ``results`` are in the order of ``numbers``. ``digest`` is of the images: two inspections of the same ones have
    the same.
    """

    tower: Tower
    plan: Plan
    numbers: Mapping[str, int]
    image_size: tuple[int, int]
    partition: Partition | None = None
    radius: float = 1.5
    results: dict[str, LayerResult] = field(default_factory=dict)
    example_maps: dict[str, Float[Tensor, "e h Q K"]] = field(default_factory=dict)
    example_norms: dict[str, Float[Tensor, "e D"]] = field(default_factory=dict)
    digest: str = ""

    @property
    def images(self) -> int:
        """How many images every layer has seen."""
        return min(result.images for result in self.results.values())

    @property
    def layouts(self) -> list[Layout]:
        """Of each layer that is inspected."""
        return [self.plan.layouts[path] for path in self.numbers]

    @cached_property
    @without_autocast
    def similarity(self) -> tuple[Grid, Float[Tensor, "D D"]] | None:
        """Similarity of the positional embeddings that are added to patches, and their grid; None without any."""
        for grid in dict.fromkeys(layout.queries for layout in self.layouts):
            embedded = self.tower.positions(grid, self.image_size)
            if embedded is not None:
                return grid, similarity(embedded)
        return None

    def table(self) -> pd.DataFrame:
        """The table of ``inspect_attention``."""
        results = [self.results[path] for path in self.numbers if path in self.results]
        closeness = None if self.similarity is None else closeness_correlation(*self.similarity[::-1])
        table = make_table(results, closeness)
        table.attrs.update(attributes(results, self.radius, self.partition))
        table.attrs["layers"] = [path for path in self.numbers if path in self.results]
        table.attrs["unobserved"] = {**self.tower.unobserved, **self.plan.unobserved}
        return table

    def maps(self, layer: int, image: int | None = None) -> NDArray[Any]:
        """The maps (h, Q, K) of a layer on average over the images, or on example ``image``, float32 or better.

        Tokens are class token and registers, then patches row by row. Examples are kept in half precision. A copy.
        ValueError for a layer that was not inspected or an image beyond ``examples``.
        """
        return arrays.layer_maps(self, layer, image).clone().numpy()

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

    def norms(self, layer: int, image: int) -> NDArray[Any]:
        """The norms (H, W) of the patches after a layer's block, on example ``image``.

        ValueError for a layer or an image without any.
        """
        return arrays.norms_of(self, layer, image)

    def rollout(self, image: int | None = None) -> NDArray[Any]:
        """Attention rollout (N, N) through all layers, on the average maps or on example ``image``.

        That of the average maps is not the average of the images' rollouts. ValueError where layers are missing,
        windowed or pooled. See ``rollout.attention_rollout``.
        """
        return arrays.rollout(self, image)

    def _repr_html_(self) -> str:
        """The measures as small heat maps, in a notebook."""
        return grids_html(self.table())

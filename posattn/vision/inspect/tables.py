"""The table of an inspection: a row for each layer, head and measure, and what a uniform map would score."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from posattn.structure.partition import Partition
from posattn.vision.grid import Layout, neighbourhoods, weights
from posattn.vision.inspect import average
from posattn.vision.inspect.norms import NORM_MEASURES
from posattn.vision.inspect.sums import IMAGE_MEASURES

if TYPE_CHECKING:
    from posattn.vision.inspect.results import LayerResult

COLUMNS = ("layer", "head", "measure", "value", "stderr")
MEASURES = ("positionality", *IMAGE_MEASURES, "association", "profile_association")  # of heads
# the head of what is measured once per layer; the layer and head of what is measured once per model
WHOLE = -1

Row = tuple[int, int, str, float, float]


def make_table(results: Iterable["LayerResult"], closeness: float | None) -> pd.DataFrame:
    """The rows of all layers, then ``pos_embed_similarity`` where there are embeddings."""
    rows = [row for result in results for row in rows_of(result)]
    if closeness is not None:
        rows.append((WHOLE, WHOLE, "pos_embed_similarity", closeness, math.nan))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def rows_of(result: "LayerResult") -> list[Row]:
    """The rows of a layer: of its heads, then of the layer as a whole."""
    rows = [
        (result.number, head, name, value, error)
        for name in MEASURES
        for head, (value, error) in enumerate(
            zip(*(each.tolist() for each in result.measures[name]), strict=True)
        )
    ]
    if result.norms is None:
        return rows
    values = zip(NORM_MEASURES, *(each.tolist() for each in result.norms[:2]), strict=True)
    return [*rows, *((result.number, WHOLE, *each) for each in values)]


def attributes(
    results: Sequence["LayerResult"], radius: float, partition: Partition | None
) -> dict[str, Any]:
    """What ``table.attrs`` holds beside the paths."""
    layouts = [result.layout for result in results]
    references = [reference(layout, radius, partition) for layout in layouts]
    return {
        "images": min(result.images for result in results),
        "numbers": [result.number for result in results],
        "grid": list(layouts[0].queries.size),
        "grids": [list(layout.queries.size) for layout in layouts],
        "reference": references[0],
        "references": references,
    }


def sets_of(layout: Layout, partition: Partition | None) -> Bool[Tensor, "D D"] | None:
    """For each patch, the patches of its set or of its neighbourhood; None if a layer has no such patches."""
    if not layout.square:
        return None
    if partition is None:
        return neighbourhoods(layout.queries)
    return partition.same if partition.num_patches == layout.queries.num_patches else None


def reference(layout: Layout, radius: float, partition: Partition | None) -> dict[str, float]:
    """The value of each measure for a uniform map, and chance for the associations, of those that exist."""
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
    found["association"] = average.chance(own, itself=True)
    if Q > 1:  # one patch has no other
        found["profile_association"] = average.chance(own, itself=False)
    return found

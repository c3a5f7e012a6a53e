"""The page of an inspection, built from its folder: the data of its script and template.

A page must stay under 10 MB. Entries have 86 levels on average maps and 16 on those of example images; where heads,
patches and examples are many, only every second (third, ...) row and column of queries is kept of either. Class token
and registers always are. For 12 x 12 heads at 224 px: all queries on average, every third row and column on three
examples.
"""

import base64
import io
import json
import math
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from posattn.runs.folder import RunFolder
from posattn.runs.report import figures

AVERAGE_ENTRIES, EXAMPLE_ENTRIES = 5_600_000, 2_400_000  # most on a page
AVERAGE_LEVELS, EXAMPLE_LEVELS = 85, 15  # above 0; divisors of 255
SINK_SHARE, SINK_POSITIONALITY = 0.2, 0.25  # a sink attracts more than the one and has less of the other
ARTEFACT_SHARE = 0.001  # a layer is flagged where more of its patches have high norms
MEASURES = {
    "positionality": ("Positionality", "share of its variance that the average map explains; 1: positional"),
    "distance": ("Distance, patches", "mean distance of attention from patches to patches"),
    "distance_px": ("Distance, pixels", "the same in pixels of the model's input"),
    "entropy": ("Entropy, nats", "of a patch's row of attention, over all tokens"),
    "locality": ("Locality", "share of the attention among patches within the radius"),
    "prefix_share": ("Prefix share", "share of the patches' attention on class token and registers"),
    "sink_share": ("Sink share", "largest share of the patches' attention that falls on one patch of an image"),
    "association": ("Association", "share of a patch's largest entries that are in its set, or grid neighbours"),
    "profile_association": ("Profile association", "the same of the patches with the most similar attention profile"),
}  # fmt: skip


def context(run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    """The variables of the template."""
    table, maps = pd.read_parquet(run.checked("table.parquet")), run.load_arrays("maps")
    curve = np.array(result["similarity_by_distance"]).T.tolist()
    shown = [name for name in MEASURES if (table.measure == name).any()]
    flagged = set(sinks(table, result))
    return {
        "data": Markup(to_script(page_data(table, maps, result, shown))),
        "measures": {name: MEASURES[name] for name in shown},
        "uniform": uniform_texts(result["references"]),
        "heads": [
            {"layer": layer, "head": head, "sink": (layer, head) in flagged, **row}
            for (layer, head), row in by_head(table).items()
        ],
        "sinks": sorted(flagged),
        "sink_rule": (SINK_SHARE, SINK_POSITIONALITY),
        "similarity_rank": table.loc[table.measure == "pos_embed_similarity", "value"].tolist(),
        "curve": Markup(similarity_curve(*curve)) if curve else "",
        "norms": (norms := norms_by_layer(table)),
        "artefacts": [row["layer"] for row in norms if row["high_norm_share"][0] > ARTEFACT_SHARE],
        "artefact_rule": ARTEFACT_SHARE,
        "norm_pictures": norm_pictures(norms, maps, result),
    }


def page_data(
    table: pd.DataFrame, maps: dict[str, Any], result: dict[str, Any], shown: list[str]
) -> dict[str, Any]:
    """The data of the script."""
    layers = range(len(result["layers"]))
    queries, keys = result["queries"], result["keys"]
    average = [to_patches(maps[f"average.{i}"], keys[i]) for i in layers]
    examples = [
        to_patches(maps[f"examples.{i}"], keys[i]) if f"examples.{i}" in maps else None for i in layers
    ]
    stride = stride_for(sum(each.size for each in average), AVERAGE_ENTRIES, queries[0])
    sparse = stride_for(sum(each.size for each in examples if each is not None), EXAMPLE_ENTRIES, queries[0])
    lut = (matplotlib.colormaps[figures.COLOUR_MAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    similarity = maps["similarity"].astype(np.float32) if "similarity" in maps else None
    return {
        "queries": queries,
        "keys": keys,
        "numbers": result["numbers"],
        "colours": base64.b64encode(lut.tobytes()).decode(),
        "references": result["references"],
        "uniform": uniform_texts(result["references"]),
        "measures": {name: measure_of(table, name) for name in shown},
        "csv": table.to_csv(index=False, float_format="%.6g"),
        "sinks": sinks(table, result),
        "stride": stride,
        "average": [
            [encode(every(m, stride, queries[i]), AVERAGE_LEVELS) for m in heads]
            for i, heads in enumerate(average)
        ],
        "best": [each.argmax(-1).tolist() for each in average],
        "peaks": [np.round(each.max(-1), 4).tolist() for each in average],
        "sparse": sparse,
        "examples": [
            None
            if heads is None
            else [[encode(every(m, sparse, queries[i]), EXAMPLE_LEVELS) for m in image] for image in heads]
            for i, heads in enumerate(examples)
        ],
        "recovered": result["recovered"],
        "stable_from": result["stable_from"],
        "similarity": None if similarity is None else encode(np.clip(similarity, 0, None), AVERAGE_LEVELS),
        "pictures": [photograph(channels_last(picture)) for picture in maps["pictures"]],
    }


def uniform_texts(references: list[dict[str, float]]) -> dict[str, str]:
    """By measure, what a uniform map scores, or chance: from the least to the largest where layers differ."""
    found = {}
    for name in MEASURES:
        values = sorted(each[name] for each in references if name in each and not math.isnan(each[name]))
        if values:
            found[name] = " to ".join(dict.fromkeys(f"{value:.3f}" for value in (values[0], values[-1])))
    return found


def to_patches(maps: Any, keys: list[int]) -> NDArray[Any]:
    """From all tokens to patches."""
    return maps.astype(np.float32)[..., keys[2] :]


def sinks(table: pd.DataFrame, result: dict[str, Any]) -> list[tuple[int, int]]:
    """Heads whose patches look at one patch that depends on the image: low entropy and positionality, high share."""
    uniform = {
        number: reference["entropy"]
        for number, reference in zip(result["numbers"], result["references"], strict=True)
    }
    found = [
        (layer, head)
        for (layer, head), row in by_head(table).items()
        if row.get("sink_share", (0.0,))[0] > SINK_SHARE
        and row["positionality"][0] < SINK_POSITIONALITY
        and row["entropy"][0] < 0.5 * uniform[layer]
    ]
    return [(int(layer), int(head)) for layer, head in found]


def norms_by_layer(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Of each layer whose norms are known, the share of high-norm patches and the largest norm, with their errors."""
    rows: dict[int, dict[str, Any]] = {}
    for layer, _, name, value, stderr in table[(table.layer >= 0) & (table["head"] < 0)].itertuples(
        index=False
    ):
        rows.setdefault(layer, {"layer": layer})[name] = (value, stderr)
    return list(rows.values())


def norm_pictures(
    norms: list[dict[str, Any]], maps: dict[str, Any], result: dict[str, Any]
) -> dict[str, Any] | None:
    """The norms of the patches of each example, relative to the largest, after the layer where norms differ most."""
    if not norms:
        return None
    layer = max(norms, key=lambda row: row["largest_norm"][0])["layer"]
    place = result["numbers"].index(layer)
    if f"norms.{place}" not in maps:
        return None
    grid, held = result["queries"][place][:2], maps[f"norms.{place}"].astype(np.float32)
    shown = [(each / each.max()).reshape(grid) for each in held]
    coloured = [
        (matplotlib.colormaps[figures.COLOUR_MAP](each)[..., :3] * 255).astype(np.uint8) for each in shown
    ]
    ratios = [float(each.max() / np.median(each)) for each in held]
    photographs = [photograph(channels_last(picture)) for picture in maps["pictures"][: len(held)]]
    return {"layer": layer, "shown": list(zip(photographs, map(figures.png, coloured), ratios, strict=True))}


def by_head(table: pd.DataFrame) -> dict[tuple[int, int], dict[str, Any]]:
    """Each head's measures with their standard errors."""
    of_heads = table[table["head"] >= 0]
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for layer, head, measure, value, stderr in of_heads.itertuples(index=False):
        rows.setdefault((layer, head), {})[measure] = (value, stderr)
    return rows


def measure_of(table: pd.DataFrame, name: str) -> list[list[float | None]]:
    """Values by layer and head; None if a layer has no such value."""
    chosen = table[(table.measure == name) & (table["head"] >= 0)].sort_values(["layer", "head"])
    return [
        [None if np.isnan(v) else round(v, 6) for v in group.value] for _, group in chosen.groupby("layer")
    ]


def stride_for(entries: int, budget: int, grid: list[int]) -> int:
    """The least spacing of queries at which no more than ``budget`` of ``entries`` are left."""
    H, W = grid[:2]
    kept = (
        math.ceil(H / s) * math.ceil(W / s) * entries / (H * W) <= budget for s in range(1, max(H, W) + 1)
    )
    return 1 + next((place for place, fits in enumerate(kept) if fits), max(H, W) - 1)


def every(map_: NDArray[Any], stride: int, grid: list[int]) -> NDArray[Any]:
    """The rows of the prefix tokens, then of each ``stride``-th query of the grid, down and across."""
    H, W, prefix = grid
    patches = map_[prefix:].reshape(H, W, -1)[::stride, ::stride].reshape(-1, map_.shape[-1])
    return np.concatenate([map_[:prefix], patches])


def encode(map_: NDArray[Any], levels: int) -> str:
    """A PNG with one row per query: the square root of each entry relative to the largest of its row."""
    share = np.sqrt(map_ / map_.max(-1, keepdims=True).clip(1e-12))
    return figures.png((np.round(share * levels) * (255 // levels)).astype(np.uint8))


def channels_last(picture: NDArray[Any]) -> NDArray[Any]:
    """(c, H, W) as (H, W, 3), or (H, W) where c is 1."""
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


def photograph(pixels: NDArray[Any]) -> str:
    """A picture as a data address: WebP, a tenth of a PNG, but for small ones, which stay exact."""
    if min(pixels.shape[:2]) < 100:
        return figures.png(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="webp", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def similarity_curve(distance: list[float], similarity: list[float]) -> str:
    """Mean similarity of positional embeddings by distance."""
    spec = {"x_label": "distance, patches", "y_label": "cosine similarity", "x_log": False, "y_log": False}
    return figures.lines(spec, {"x": {"": distance}, "y": {"": similarity}, "std": {}})  # type: ignore[dict-item]


def to_script(data: dict[str, Any]) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(data, separators=(",", ":")).replace("</", "<\\/")

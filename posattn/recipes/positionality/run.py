"""What positionality says of a head: what its conversion to positional attention costs."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from scipy.stats import bootstrap, spearmanr
from torch import nn

from posattn.recipes.kit.classifiers import load_split, load_trained, train_one
from posattn.recipes.kit.settings import ORIGINAL, ImagesConfig
from posattn.recipes.positionality.settings import PositionalityConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, Table, to_plain
from posattn.runs.seeds import mean_std_text
from posattn.runs.sweep import sweep
from posattn.vision.convert.maps import to_positional
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.inspect.inspection import inspect_attention
from posattn.vision.training.logs import follow_trainings

COSTS = {"loss": "rise of the test loss", "accuracy": "fall of the test accuracy"}


def run(config: PositionalityConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train each seed, then convert every head by itself."""
    seeds = range(config.seed, config.seed + config.images.seeds)
    trainings = {f"{ORIGINAL}/{seed}": (config.images, ORIGINAL, seed, run.path) for seed in seeds}
    with follow_trainings(run, progress, config.images.train):
        sweep("images", trainings, train_one, run, progress)
    heads = {
        str(seed): run.unit(f"heads/{seed}", partial(cost_of_heads, config.images, seed, run))
        for seed in seeds
    }
    numbers = {cost: rank_correlation(heads, cost) for cost in COSTS}
    return {
        "title": "What positionality says of a head",
        "summary": f"{len(seeds)} ViTs trained on {config.images.data}, each head converted by itself.",
        "heads": heads,
        "rank_correlation": numbers,
        "page": to_plain([section_of(config, heads, numbers)]),
    }


def cost_of_heads(config: ImagesConfig, seed: int, run: RunFolder) -> list[dict[str, float]]:
    """Of every head of a trained ViT: positionality on training images, and what its conversion costs in testing."""
    train_set, test_set = (load_split(config, split) for split in ("train", "test"))
    vit = load_trained(config, ORIGINAL, seed, test_set, run)
    calibration = to_float(train_set.images)
    table = inspect_attention(vit, calibration)
    loss, accuracy = figures_on(vit, test_set)
    rows = []
    chosen = table[table.measure == "positionality"]
    for layer, head, value in chosen[["layer", "head", "value"]].itertuples(index=False):
        after = figures_on(to_positional(vit, calibration, heads={layer: [head]}), test_set)
        rows.append(
            {
                "layer": layer,
                "head": head,
                "positionality": value,
                "loss": after[0] - loss,
                "accuracy": accuracy - after[1],
            }
        )
    return rows


@torch.inference_mode()
def figures_on(model: nn.Module, images: ImageSet) -> tuple[float, float]:
    """Cross-entropy and accuracy."""
    logits = model(to_float(images.images))
    return F.cross_entropy(logits, images.labels).item(), (
        logits.argmax(1) == images.labels
    ).float().mean().item()


def rank(x: Any, y: Any) -> float:
    """Spearman's ρ; 0 where either has no order."""
    return float(spearmanr(x, y).statistic) if min(len(set(x)), len(set(y))) > 1 else 0.0


def rank_correlation(heads: dict[str, list[dict[str, float]]], cost: str) -> dict[str, Any]:
    """Spearman's ρ of positionality with the cost: of each seed, and of all heads with a 95 % interval (bootstrap)."""
    pairs = {
        seed: ([row["positionality"] for row in rows], [row[cost] for row in rows])
        for seed, rows in heads.items()
    }
    x, y = ([v for pair in pairs.values() for v in pair[i]] for i in (0, 1))
    layers = sorted({row["layer"] for rows in heads.values() for row in rows})
    interval = bootstrap(
        (x, y), rank, paired=True, vectorized=False, n_resamples=2000, rng=0
    ).confidence_interval
    return {
        "by_layer": [rank(*of_layer(heads, cost, layer)) for layer in layers],
        "by_seed": [rank(*pair) for pair in pairs.values()],
        "all": rank(x, y),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def of_layer(
    heads: dict[str, list[dict[str, float]]], cost: str, layer: float
) -> tuple[list[float], list[float]]:
    """Positionality and cost of one layer's heads in every seed."""
    rows = [row for of_seed in heads.values() for row in of_seed if row["layer"] == layer]
    return [row["positionality"] for row in rows], [row[cost] for row in rows]


def section_of(config: PositionalityConfig, heads: dict[str, Any], numbers: dict[str, Any]) -> Section:
    """What the page shows."""
    count = sum(map(len, heads.values()))
    loss = numbers["loss"]
    claim = (
        f"Rank correlation of a head's positionality with the rise of the test loss on its conversion: "
        f"{loss['all']:.2f} (95 % interval {loss['low']:.2f} to {loss['high']:.2f}, {count} heads)."
    )
    correlations = [
        [
            text,
            f"{n['all']:.2f}",
            f"{n['low']:.2f} to {n['high']:.2f}",
            mean_std_text(n["by_seed"], 2),
            ", ".join(f"{value:.2f}" for value in n["by_layer"]),
        ]
        for cost, text in COSTS.items()
        for n in (numbers[cost],)
    ]
    rows = [
        [
            f"{seed}, {r['layer']}, {r['head']}",
            f"{r['positionality']:.3f}",
            f"{r['loss']:+.4f}",
            f"{100 * r['accuracy']:+.2f}",
        ]
        for seed, of_seed in heads.items()
        for r in sorted(of_seed, key=lambda row: row["positionality"])
    ]
    tables = [
        Table(
            "Rank correlation with positionality",
            ["cost", "all heads", "95 %", "mean ± std over seeds", "within layer 0, 1, ..."],
            correlations,
        ),
        Table("Every head", ["seed, layer, head", "positionality", "loss rise", "accuracy fall, %"], rows),
    ]
    return Section("Positionality and conversion", claim, tables)  # type: ignore[arg-type]

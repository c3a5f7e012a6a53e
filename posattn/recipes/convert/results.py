"""The content of result.json of a conversion, and the maps on its page."""

from typing import Any

import torch

from posattn.recipes.convert.plan import Bench, Plan
from posattn.recipes.convert.settings import ConvertConfig
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.needs import Kept, Losses, Unit, losses
from posattn.vision.convert.orders import GREEDY, RANDOM, Point
from posattn.vision.convert.quality import ACCURACY, features_of

BEFORE, REFIT, RECOVERY = "before recovery", "after refit", "after recovery"
"""States of the converted model whose quality is measured."""


@torch.no_grad()
def quality_of(model: Any, bench: Bench) -> dict[str, Any]:
    """By each measure, the quantity that a budget bounds, and the loss with its error."""
    quality = bench.quality
    found = quality.of(features_of(model.to(bench.batches[0].device).eval(), bench.batches))
    kept = {metric: quality.kept(found, metric) for metric in found}
    return {"kept": kept, "losses": losses(quality, found)}


def original_of(bench: Bench) -> dict[str, Any]:
    """The original's accuracy, if there are labels."""
    accuracy = bench.quality.before.get(ACCURACY)
    return (
        {} if accuracy is None else {ACCURACY: accuracy.mean().item(), "classifier": bench.quality.classifies}
    )


def describe_heads(
    plan: Plan,
    alone: dict[str, list[Losses]],
    best: list[Losses],
    kept: Kept,
    orders: dict[str, list[Unit]],
    heads: dict[int, dict[int, str]],
) -> list[dict[str, Any]]:
    """For each unit: its loss alone, the kinds of its heads, and whether it is converted."""
    described = []
    for number, unit in enumerate(plan.units):
        found = plan.statistics[unit.block]
        rows = list(unit.heads)
        described.append(
            {
                "block": unit.block,
                "heads": rows,
                "kind": kept[unit.block, rows[0]],
                "converted": rows[0] in heads.get(unit.block, {}),
                "rank": orders[GREEDY].index(unit),
                "losses": best[number],
                "by_kind": {kind: of_kind[number][plan.metric].mean for kind, of_kind in alone.items()},
                "positionality": found.positionality[rows].mean().item(),
                "variation": found.variation[rows].mean().item(),
            }
        )
    return described


def head_map(plan: Plan, best: list[Losses]) -> dict[str, Any]:
    """The loss of each head alone, over blocks and heads; 0 where a block has fewer heads."""
    blocks = sorted({unit.block for unit in plan.units})
    count = max(unit.heads[0] for unit in plan.units) + 1
    values = [[0.0] * count for _ in blocks]
    for unit, found in zip(plan.units, best, strict=True):
        values[blocks.index(unit.block)][unit.heads[0]] = found[plan.metric].mean
    return {"losses": [values], "heads": list(range(count)), "blocks": blocks}


def curves_for(curves: dict[str, list[Point]]) -> dict[str, Any]:
    """Curves as columns: shares of heads, and of each measure the mean loss and its error."""
    columns = {}
    for name, points in curves.items():
        total = points[-1].heads
        columns[name] = {
            "share": [point.heads / total for point in points],
            "heads": [point.heads for point in points],
            **{
                metric: {
                    "loss": [point.losses[metric].mean for point in points],
                    "stderr": [point.losses[metric].stderr for point in points],
                    "kept": [point.kept[metric] for point in points],
                }
                for metric in points[0].losses
            },
        }
    return {**columns, **mean_of_random(columns)}


def mean_of_random(columns: dict[str, Any]) -> dict[str, Any]:
    """The mean of the curves of random orders; its error is that over images, plus that over the orders."""
    drawn = [one for name, one in columns.items() if name.startswith(f"{RANDOM} ")]
    if not drawn:
        return {}
    mean: dict[str, Any] = {name: drawn[0][name] for name in ("share", "heads")}
    for metric in [name for name in drawn[0] if name not in mean]:
        parts = {
            part: torch.tensor([one[metric][part] for one in drawn], dtype=torch.double)
            for part in ("loss", "stderr", "kept")
        }
        variance = parts["stderr"].square().mean(0)
        if len(drawn) > 1:
            variance = variance + parts["loss"].var(0) / len(drawn)
        mean[metric] = {
            "loss": parts["loss"].mean(0).tolist(),
            "stderr": variance.sqrt().tolist(),
            "kept": parts["kept"].mean(0).tolist(),
        }
    return {RANDOM: mean}


def examples(plan: Plan, best: list[Losses], kept: Kept) -> dict[str, torch.Tensor]:
    """The maps of the heads that are cheapest and most expensive to convert alone."""
    order = sorted(range(len(plan.units)), key=lambda i: best[i][plan.metric].mean)
    maps = {}
    for name, numbers in (("cheapest", order[:4]), ("dearest", order[-4:])):
        of_units = [plan.units[i] for i in numbers]
        found = [plan.statistics[unit.block].mean[unit.heads[0]] for unit in of_units]
        prefix = adapter_of(plan.subject.model).prefix
        maps[name] = torch.stack(found)[:, prefix:, prefix:].half().cpu()  # type: ignore[misc]
    return maps


def summary(config: ConvertConfig, vit: ViT) -> str:
    """A sentence on the model and the pictures."""
    height, width = vit.image_size
    return (
        f"{config.checkpoint or 'Pretrained'}, {height} x {width} px; maps averaged over {config.calibration} pictures "
        f"of {config.images}, heads ranked on {config.ranking}, losses measured on {config.measured} others; "
        f"seed {config.seed}."
    )


def to_json(heads: dict[int, dict[int, str]]) -> dict[str, dict[str, str]]:
    """Heads by block as JSON keeps them."""
    return {str(block): {str(head): kind for head, kind in of.items()} for block, of in sorted(heads.items())}

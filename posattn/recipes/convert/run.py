"""`posattn convert`: from a trained ViT and pictures to a faster ViT, with its losses and its speed."""

from functools import partial
from typing import Any

import torch
from rich.progress import Progress

from posattn.recipes.convert.measuring import chosen, measured_alone, orders_of, traced
from posattn.recipes.convert.models import load_model
from posattn.recipes.convert.page import sections
from posattn.recipes.convert.plan import plan_of
from posattn.recipes.convert.recovered import Fit, judged, recovered, recovery_losses, refitted, require_fit
from posattn.recipes.convert.results import (
    BEFORE,
    RECOVERY,
    REFIT,
    curves_for,
    describe_heads,
    examples,
    head_map,
    original_of,
    quality_of,
    summary,
    to_json,
)
from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import check_sizes, load_material
from posattn.recipes.convert.timing import seconds_of_kinds, speed
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.vision.convert.maps import replace_heads
from posattn.vision.convert.needs import Losses, best_kept, choice_of
from posattn.vision.convert.saving import MODEL, save
from posattn.vision.training.checkpoints import apart, digest


def run(config: ConvertConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every step is a unit that a resumed run does not repeat."""
    torch.manual_seed(config.seed)
    vit = load_model(config)
    model = vit.model
    check_sizes(config, vit)
    material = load_material(config, vit, progress)
    run.same_data(f"the model {config.model}", digest(apart(model.state_dict())))
    run.same_data(f"the picture set {config.images}", digest(material.tensors))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = plan_of(config, model.to(device), material, device)
    fit = Fit(config, model, material.fitting, run, progress)
    require_fit(fit)
    alone: dict[str, list[Losses]] = {
        kind: measured_alone(config, plan, kind, run, progress) for kind in config.kinds
    }
    seconds = run.unit("seconds of kinds", partial(seconds_of_kinds, plan.subject, config))
    kept = best_kept(plan.units, alone, seconds, plan.metric, config.tolerance)
    best = [alone[kept[unit.block, unit.heads[0]]][number] for number, unit in enumerate(plan.units)]
    orders = orders_of(config, plan, best, kept, run, progress)
    curves = {name: traced(config, plan, name, order, kept, run, progress) for name, order in orders.items()}
    name, point = chosen(config, plan, orders, curves, kept, run)
    heads = choice_of(orders[name][: point.units], kept)
    averages = {number: found.mean for number, found in plan.statistics.items()}
    converted = replace_heads(model, averages, heads, config.window).eval()
    quality = {BEFORE: run.unit("quality before", partial(quality_of, converted, plan.measured))}
    if config.refit:
        converted = refitted(fit, converted)
        quality[REFIT] = run.unit("quality refitted", partial(quality_of, converted, plan.measured))
    saved, verdict = list(quality)[-1], None
    if config.recover:
        before = {name: value.clone() for name, value in converted.state_dict().items()}
        converted = recovered(fit, converted)
        quality[RECOVERY] = run.unit("quality after", partial(quality_of, converted, plan.measured))
        verdict = judged(converted, before, plan)
        saved = RECOVERY if verdict.better else saved
    save(converted.cpu(), run.path / MODEL)
    run.record_folder(MODEL)
    timing = run.unit("speed", partial(speed, config, model.cpu(), converted, device, progress))
    timing["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    numbers = {
        "metric": plan.metric,
        "heads": describe_heads(plan, alone, best, kept, orders, heads),
        "head_map": head_map(plan, best) if config.by == "head" else None,
        "orders": {
            each: [[unit.block, list(unit.heads)] for unit in order] for each, order in orders.items()
        },
        "curves": curves_for(curves),
        "chosen": {
            "order": name,
            "heads": point.heads,
            "of": len(kept),
            "kept": point.kept,
            "kinds": to_json(heads),
        },
        "original": original_of(plan.measured),
        "quality": quality,
        "saved": saved,
        "recovery_gain": None if verdict is None else verdict.gain,
        "speed": timing,
        "recovery": recovery_losses(run),
    }
    run.save_tensors("examples", examples(plan, best, kept))
    return {
        "title": f"{config.model} converted",
        "summary": summary(config, vit),
        "convert": numbers,
        "page": to_plain(sections(config, numbers, grid=vit.place().size())),
    }

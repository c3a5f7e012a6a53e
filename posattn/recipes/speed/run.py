"""The speed of positional attention, side by side with the models it would replace."""

import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from rich.progress import Progress
from torch import nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn.bench.inspection import cost_section, in_a_process
from posattn.bench.models import DTYPES, TRAINING, own_compiler_cache, reason, side_by_side
from posattn.recipes.speed.page import failures, ratios, speed_sections
from posattn.recipes.speed.settings import CONTENDERS, Contender, SpeedConfig, patch_size
from posattn.runs.device import full_name, native_bfloat16, processor, threads_of
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import count_text
from posattn.vision.models.freeze import GATHERED, freeze_attention


def batch_of(config: SpeedConfig, size: int) -> int:
    """Images per batch."""
    tokens = 3136 if torch.device(config.device).type == "cpu" else 50_176
    return config.batch or max(1, tokens // (size // patch_size(size)) ** 2)


def entered(config: SpeedConfig, mode: str, size: int, dtype: str) -> list[str]:
    """The models of a cell: those that exist there, and pruned ones where pruning is more than zeros in a product."""
    tokens, patch = (size // patch_size(size)) ** 2, patch_size(size)

    def enters(one: Contender) -> bool:
        on_cpu = torch.device(config.device).type == "cpu"
        gathered = one.keep is None or (on_cpu and one.keep <= GATHERED[DTYPES[dtype]] * tokens)
        return mode in one.modes and gathered and (one.patches or patch == 16)

    return [name for name in config.models if enters(CONTENDERS[name])]


def build(config: SpeedConfig, name: str, mode: str, size: int, dtype: str) -> nn.Module:
    """The model at an image size; for inference in the type, which decides the form of pruned maps, and ours frozen."""
    one = CONTENDERS[name]
    options = {"img_size": size, **one.options}
    if one.patches:
        options["patch_size"] = patch_size(size)
    if "vit_" in one.model:
        options["depth"] = config.depth
    torch.manual_seed(config.seed)
    model = timm.create_model(one.model, **options).to(config.device)
    if mode == TRAINING:
        return model
    model = model.to(DTYPES[dtype])
    return freeze_attention(model, one.keep) if "posattn" in one.model else model


def time_cell(config: SpeedConfig, mode: str, size: int, dtype: str) -> dict[str, Any]:
    """All models at one mode, size and type, side by side; one that cannot be built or called has the reason."""
    models, failed = {}, {}
    for name in entered(config, mode, size, dtype):
        try:
            models[name] = build(config, name, mode, size, dtype)
        except Exception as error:
            failed[name] = {"failed": dict.fromkeys(config.executions, reason(error))}
    images = torch.randn(batch_of(config, size), 3, size, size, device=config.device)
    found = side_by_side(models, images, mode, dtype, config.rounds, config.executions) if models else {}
    return {"batch": len(images), **found, **failed}


def time_all(config: SpeedConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every cell that a model enters, by its name; each is a unit that a resumed run does not repeat.

    A line is printed after each.
    """
    cells: dict[str, Any] = {}
    chosen = [cell for cell in config.cells if entered(config, *cell)]
    start, done, left = time.perf_counter(), 0, sum(weight(config, cell) for cell in chosen)
    for cell in progress.track(chosen, description="speed: comparisons"):
        name, repeated = " ".join(map(str, cell)), run.finished_units()
        cells[name] = run.unit(name, partial(time_cell, config, *cell))
        left -= weight(config, cell)
        if name not in repeated:
            done += weight(config, cell)
            minutes = math.ceil((time.perf_counter() - start) / done * left / 60)
            rest = f"; about {count_text(minutes, 'minute')} left" if left else ""
            say(progress, f"{name} is done{rest}{failures(cells[name])}")
    return cells


def weight(config: SpeedConfig, cell: tuple[str, int, str]) -> int:
    """About how long a cell takes, compared with others: by models and modes."""
    return len(entered(config, *cell)) * (2 if cell[0] == TRAINING else 1)


def say(progress: Progress, text: str) -> None:
    """Print a line above the progress bar."""
    progress.console.print(f"posattn: {text}", soft_wrap=True, highlight=False, markup=False)


def with_dtypes(config: SpeedConfig) -> tuple[SpeedConfig, str]:
    """The config with its types named, and a sentence on skipped ones."""
    if config.dtypes is not None:
        return config, ""
    if native_bfloat16(config.device):
        return replace(config, dtypes=("float32", "bfloat16")), ""
    note = f" bfloat16 is skipped: {processor(config.device)} lacks it natively (--dtypes bfloat16 times it)."
    return replace(config, dtypes=("float32",)), note


def run(config: SpeedConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The ratios and all cells, timed with the threads that the run was started with."""
    torch.set_num_threads(threads_of(run.config["device"]))
    config, note = with_dtypes(config)
    if note:
        say(progress, note.strip())
    if not any(entered(config, *cell) for cell in config.cells):
        models, sizes = ", ".join(config.models), ", ".join(f"{size} px" for size in config.sizes)
        raise ValueError(
            f"nothing to time: {models} do not exist at {sizes} for {' and '.join(config.modes)}"
        )
    with own_compiler_cache():
        cells = time_all(config, run, progress)
        inspections = [
            run.unit(
                f"inspection {size}",
                partial(in_a_process, size, config.rounds, config.depth, torch.get_num_threads()),
            )
            for size in config.inspection or ()
        ]
    numbers = {"threads": torch.get_num_threads(), "cells": cells, "ratios": ratios(config, cells)}
    sections = [*speed_sections(config, numbers), *([cost_section(inspections)] if inspections else [])]
    how = f"{config.rounds} rounds, {count_text(config.depth, 'block')}, on {full_name(config.device)}"
    return {
        "title": "Speed of positional attention",
        "summary": f"Side by side, interleaved in one run: {how}.{note}",
        "timing": numbers,
        "inspection": inspections,
        "page": to_plain(sections),
    }

"""SGD exact in law on top of the population flow of its setting."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Generator

from posattn import checks
from posattn.recipes.phases.flows import at_times, integrate, make_flow
from posattn.recipes.phases.settings import Descent, FlowSetting
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section
from posattn.runs.seeds import mean_std_text
from posattn.runs.sweep import sweep
from posattn.structure.partition import Partition
from posattn.theory.in_law import descend_in_law
from posattn.theory.scaling import plateau_loss, time_below
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe, held_scores, over_seeds


def compare_descent(
    descent: Descent, level: float, seed: int, run: RunFolder, progress: Progress
) -> dict[str, Any]:
    """SGD seeds and their flow at the same times."""
    seeds = range(seed, seed + checks.positive_int("seeds", descent.seeds))
    settings = {f"seed={each}": (descent, each) for each in seeds}
    histories = list(sweep("descent", settings, descend_once, run, progress).values())
    times = histories[0]["t"]
    beside = run.unit("descent/flow", lambda: flow_beside(descent.flow, level, seed, times))
    below = level * beside["plateau"]
    crossings = [time_below(history["t"], history["loss"], below) for history in histories]
    return {
        "t": times,
        "seeds": {str(each): history for each, history in zip(seeds, histories, strict=True)},
        **over_seeds(histories),
        "flow": beside,
        "transition": crossings,
    }


def flow_beside(setting: FlowSetting, level: float, seed: int, times: Sequence[float]) -> dict[str, Any]:
    """The flow of the descent's setting at the descent's times."""
    flow = make_flow(setting, seed)
    trajectory, plateau = integrate(flow, setting), plateau_loss(flow)
    transition = time_below(trajectory.t, trajectory.loss, level * plateau)
    return {**at_times(trajectory, times), "plateau": plateau, "transition": transition}


def descend_once(descent: Descent, seed: int) -> dict[str, list[float]]:
    """One SGD from the flow's start: its loss on test samples, and the four numbers read off it, over time."""
    generator, setting = Generator().manual_seed(seed), descent.flow
    partition = Partition.random(setting.num_patches, setting.set_size, generator=generator)
    task = StructuredTask(partition, dim=descent.dim, noise_rate=setting.noise_rate, generator=generator)
    options = (setting.power, setting.linear, setting.diagonal, setting.scale)
    model = SimplifiedViT(setting.num_patches, descent.dim, *options, init_std=0.0)
    model.value.data = setting.alpha * task.feature
    test = task.sample(descent.test_samples, generator=generator)
    steps = math.ceil(setting.t_end / checks.positive("rate", descent.rate))
    wanted = set(np.geomspace(1, steps, descent.measurements).astype(int).tolist())
    history: dict[str, list[float]] = {}
    training = descend_in_law(model, task, descent.batch_size, steps, descent.rate, generator=generator)
    for updates, _ in training:
        if updates in wanted:
            row = {"t": descent.rate * updates, **describe(model, task, test), **four_numbers(model, task)}
            for name, value in row.items():
                history.setdefault(name, []).append(value)
    return history


@torch.no_grad()
def four_numbers(model: SimplifiedViT, task: StructuredTask) -> dict[str, float]:
    """(α, β, γ, ρ) read off a model: v along w* and across it, A averaged inside the sets and outside."""
    scores, same = held_scores(model), task.partition.same
    alpha = model.value @ task.feature
    inside = same & ~torch.eye(len(same), dtype=torch.bool)
    return {
        "alpha": alpha.item(),
        "beta": (model.value - alpha * task.feature).norm().item(),
        "gamma": scores[inside].mean().item(),
        "rho": scores[~same].mean().item(),
    }


def descent_section(numbers: dict[str, Any], descent: Descent) -> Section:
    """SGD on top of the flow."""
    seen = [time for time in numbers["transition"] if time is not None]
    beside = numbers["flow"]["transition"]
    setting = descent.flow
    times = f"at t = {mean_std_text(seen, 0)}" if seen else "not seen"
    compared = "not seen" if beside is None else f"at {beside:.0f}"
    claim = (
        f"SGD on small batches beside the flow of the population: its transition is {times} ({len(seen)} of "
        f"{descent.seeds} seeds), the flow's {compared} (D = {setting.num_patches}, C = {setting.set_size}, "
        f"q = {setting.noise_rate:g}, d = {descent.dim}, batches of {descent.batch_size}, rate {descent.rate:g}; "
        "measured on a grid of times, linear in between)."
    )
    labels = {"loss": "loss", "gamma": "γ, mean of A inside the sets", "alpha": "α, v along w*"}
    items = [
        Lines(
            f"SGD over the population flow: {label}",
            "descent.t",
            {
                "population flow": f"descent.flow.{name}",
                **{f"SGD, seed {seed}": f"descent.seeds.{seed}.{name}" for seed in numbers["seeds"]},
            },
            x_label="time (rate times steps)",
            y_label=label,
            x_log=True,
        )
        for name, label in labels.items()
    ]
    association = Lines(
        "Patch association of SGD",
        "descent.t",
        {"association": "descent.mean.association"},
        {"association": "descent.std.association"},
        x_label="time (rate times steps)",
        y_label="patch association",
        x_log=True,
        caption=f"Mean and standard deviation over {descent.seeds} seeds: the order of the scores is right long before "
        "their size lowers the loss.",
    )
    return Section("SGD and the flow", claim, [*items, association])

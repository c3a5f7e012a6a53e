"""The phases of training: the population flow's plateau and transition, how long it lasts, and SGD on top of it."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.kit.theory import draw_task, exact
from posattn.recipes.phases import page
from posattn.recipes.phases.settings import Descent, FlowSetting, PhasesConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import over_seeds
from posattn.runs.sweep import sweep_seeds
from posattn.theory.flow import PopulationFlow
from posattn.theory.in_law import descend_in_law
from posattn.theory.integration import SampleExhaustedWarning
from posattn.theory.scaling import plateau_loss, power_law, time_below, transition_time
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe, first_full, held_scores, track

FLAGS = ("--flow.samples", "--descent.flow.samples")
STATE = ("alpha", "gamma", "rho", "loss", "accuracy")  # columns of a trajectory that are shown


def run(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The flow's curves, its transition times over every scan, and the descents."""
    descent, seed, level = config.descent, config.seed, config.scan.level
    flow = run.unit("flow", lambda: flow_curves(config.flow, seed, level, FLAGS[0]))
    # before what takes long, as it may refuse its samples
    followed = run.unit(
        "descent/flow", lambda: flow_curves(descent.flow, seed, level, FLAGS[1], measured_times(descent))
    )
    numbers = {
        "flow": flow,
        "scans": scan_all(config, run, progress),
        "descent": compare_descent(config, followed, run, progress),
    }
    sections = [
        page.flow_section(numbers["flow"], config.flow, level),
        page.descent_section(numbers["descent"], config.descent),
        page.scan_section(numbers["scans"], config),
    ]
    return {
        "title": "A plateau, then the structure",
        "summary": "The population gradient flow of the simplified ViT in four numbers, and SGD on top of it.",
        **numbers,
        "page": to_plain(sections),
    }


def make_flow(setting: FlowSetting, seed: int) -> PopulationFlow:
    """The flow of a setting on the sample drawn from ``seed``."""
    names = ("num_patches", "set_size", "noise_rate", "power", "linear", "diagonal", "scale", "samples")
    return PopulationFlow(**{name: getattr(setting, name) for name in names}, seed=seed, importance=True)


def time_of_transition(setting: FlowSetting, level: float, seed: int) -> float | None:
    """When the flow's loss falls below ``level`` times the plateau's; None if it does not before ``t_end``."""
    return transition_time(
        make_flow(setting, seed), alpha=setting.alpha, level=level, t_end=setting.t_end, rtol=setting.rtol
    )


def flow_curves(
    setting: FlowSetting, seed: int, level: float, flag: str, times: Sequence[float] = ()
) -> dict[str, Any]:
    """The flow from A_ij = 0 and v = α₀ w* at ``times``, None after its end.

    Without ``times``: from the start to 10 times its transition. Raises ValueError naming ``flag`` if the samples do
    not stand for the population from the first step on.
    """
    flow, transition = make_flow(setting, seed), time_of_transition(setting, level, seed)
    t_end = max(times) if times else min(setting.t_end, 10 * (transition or math.inf))
    start = {"alpha": setting.alpha, "beta": 0.0, "gamma": 0.0, "rho": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SampleExhaustedWarning)  # the page says where the flow ends early
        path = flow.integrate(**start, t_end=t_end, rtol=setting.rtol)
    if path.t[-1] == 0:
        raise ValueError(f"{flag} {setting.samples} are too few for this flow: {path.stopped}")
    times = times or np.geomspace(min(1.0, path.t[-1]), path.t[-1], 200).tolist()
    curves = {name: np.interp(times, path.t, getattr(path, name)).tolist() for name in STATE}
    for name, curve in curves.items():
        curves[name] = [y if t <= path.valid_until else None for t, y in zip(times, curve, strict=True)]
    found = {"plateau": plateau_loss(flow), "transition": transition, "stopped": path.stopped}
    return {"t": times, **curves, **found}


def scan_all(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """For every varied number: the transition times of every seed, and how they grow."""
    scan = config.scan
    values = {name: list(tried) for name in page.SYMBOLS if (tried := getattr(scan, name))}
    arms = {
        f"{name}={exact(value)}": (replace(config.flow, **{name: value}), scan.level)
        for name in values
        for value in values[name]
    }
    seeds = range(config.seed, config.seed + scan.seeds)
    times = sweep_seeds("transition", arms, seeds, time_of_transition, run, progress)
    return {
        name: summarise(name, tried, [times[f"{name}={exact(value)}"] for value in tried])
        for name, tried in values.items()
    }


def summarise(name: str, values: list[float], rows: list[list[float | None]]) -> dict[str, Any]:
    """Times against one number: the local powers, and the power law where there are values enough for one.

    Values at which some seed has no transition are ignored: its time is longer than ``t_end``.
    """
    axis = [math.expm1(value) if name == "diagonal" else float(value) for value in values]
    seen: dict[float, list[float]] = {
        x: [t for t in row if t is not None]
        for x, row in sorted(zip(axis, rows, strict=True), key=lambda found: found[0])
        if None not in row
    }
    means = {x: geometric_mean(row) for x, row in seen.items()}
    xs, times = [x for x, row in seen.items() for _ in row], [t for row in seen.values() for t in row]
    law = power_law(xs, times) if len(seen) > 2 else None
    logs = np.log(list(means.items())).reshape(-1, 2)
    return {
        "values": values,
        "times": rows,
        "x": list(means),
        "mean": list(means.values()),
        "std": [over_seeds(row)["std"] for row in seen.values()],
        "local": (np.diff(logs[:, 1]) / np.diff(logs[:, 0])).tolist(),
        "law": law and law._asdict(),
        "fit": [law(x) for x in means] if law and not law.rejected else [],
    }


def compare_descent(
    config: PhasesConfig, flow: dict[str, Any], run: RunFolder, progress: Progress
) -> dict[str, Any]:
    """SGD of every seed, and the flow at the same times."""
    descent, below = config.descent, config.scan.level * flow["plateau"]
    seeds = range(config.seed, config.seed + descent.seeds)
    histories = sweep_seeds("descent", {"SGD": (descent,)}, seeds, descend, run, progress)["SGD"]
    return {
        "t": flow["t"],
        "seeds": {str(seed): history for seed, history in zip(seeds, histories, strict=True)},
        **over_seeds(histories),
        "flow": flow,
        "transition": [time_below(history["t"], history["loss"], below) for history in histories],
        "ordered": [first_full({**history, "step": history["t"]}, "association") for history in histories],
    }


def measured_steps(descent: Descent) -> list[int]:
    """The steps after which SGD is measured, evenly in their logarithms up to the last."""
    steps = np.geomspace(1, descent.steps, descent.measurements).astype(int)
    return sorted(set(steps.tolist()))


def measured_times(descent: Descent) -> list[float]:
    """The times of ``measured_steps``."""
    return [descent.rate * step for step in measured_steps(descent)]


def descend(descent: Descent, seed: int) -> dict[str, list[float]]:
    """One SGD from the flow's start: its loss on test samples and its four numbers, over time."""
    generator, setting = Generator().manual_seed(seed), descent.flow
    D, d = setting.num_patches, descent.dim
    task = draw_task(D, setting.set_size, d, setting.noise_rate, generator)
    options = (setting.power, setting.linear, setting.diagonal, setting.scale)
    model = SimplifiedViT(D, d, *options, init_std=0.0)
    model.value.data = setting.alpha * task.feature
    test = task.sample(descent.test_samples, generator=generator)
    training = descend_in_law(
        model, task, descent.batch_size, descent.steps, descent.rate, generator=generator
    )
    history = track(
        training,
        measured_steps(descent),
        lambda step: {**describe(model, task, test), **four_numbers(model, task)},
    )
    del history["step"]
    return {"t": measured_times(descent), **history}


@torch.no_grad()
def four_numbers(model: SimplifiedViT, task: StructuredTask) -> dict[str, float]:
    """(α, β, γ, ρ) of a model: v along w* and across it, the mean of A inside the sets and outside."""
    scores, same = held_scores(model), task.partition.same
    alpha = model.value @ task.feature
    inside = same & ~torch.eye(len(same), dtype=torch.bool)
    return {
        "alpha": alpha.item(),
        "beta": (model.value - alpha * task.feature).norm().item(),
        "gamma": scores[inside].mean().item(),
        "rho": scores[~same].mean().item(),
    }

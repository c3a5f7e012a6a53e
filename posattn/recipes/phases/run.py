"""The phases of training: the population flow's plateau and transition, how long it lasts, and SGD on top of it."""

import math
import warnings
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.phases import page
from posattn.recipes.phases.settings import Descent, FlowSetting, PhasesConfig
from posattn.runs.folder import RunFolder
from posattn.runs.seeds import over_seeds
from posattn.runs.sweep import sweep
from posattn.structure.partition import Partition
from posattn.theory.flow import PopulationFlow
from posattn.theory.in_law import descend_in_law
from posattn.theory.integration import SampleExhaustedWarning, Trajectory
from posattn.theory.scaling import plateau_loss, power_law, time_below, transition_time
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe, held_scores, track

STATE = ("alpha", "gamma", "rho", "loss", "accuracy")  # columns of a trajectory that are shown


def run(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The flow's curves, its transition times over every scan, and the descents."""
    level = config.scan.level
    numbers = {
        "flow": run.unit("flow", lambda: flow_curves(config.flow, config.seed, level)),
        "scans": scan_all(config, run, progress),
        "descent": compare_descent(config, run, progress),
    }
    return {
        "title": "A plateau, then the structure",
        "summary": "The population gradient flow of the simplified ViT in four numbers, and SGD on top of it.",
        **numbers,
        "page": page.sections(config, numbers),
    }


def make_flow(setting: FlowSetting, seed: int) -> PopulationFlow:
    """The flow of a setting on the sample drawn from ``seed``."""
    names = ("num_patches", "set_size", "noise_rate", "power", "linear", "diagonal", "scale", "samples")
    return PopulationFlow(**{name: getattr(setting, name) for name in names}, seed=seed, importance=True)


def integrate(flow: PopulationFlow, setting: FlowSetting, t_end: float) -> Trajectory:
    """The flow from A_ij = 0 and v = α₀ w*; the page says where it ended early."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SampleExhaustedWarning)
        return flow.integrate(
            alpha=setting.alpha, beta=0.0, gamma=0.0, rho=0.0, t_end=t_end, rtol=setting.rtol
        )


def time_of_transition(setting: FlowSetting, seed: int, level: float) -> float | None:
    """When the flow's loss falls below ``level`` times the plateau's; None if it does not before ``t_end``."""
    return transition_time(
        make_flow(setting, seed), alpha=setting.alpha, level=level, t_end=setting.t_end, rtol=setting.rtol
    )


def flow_curves(setting: FlowSetting, seed: int, level: float) -> dict[str, Any]:
    """The flow over time, up to 10 times its transition."""
    flow, transition = make_flow(setting, seed), time_of_transition(setting, seed, level)
    trajectory = integrate(flow, setting, min(setting.t_end, 10 * (transition or math.inf)))
    end = trajectory.t[-1]
    times = np.geomspace(min(1.0, end), end, 200).tolist()
    curves = {name: np.interp(times, trajectory.t, getattr(trajectory, name)).tolist() for name in STATE}
    found = {"plateau": plateau_loss(flow), "transition": transition, "stopped": trajectory.stopped}
    return {"t": times, **curves, **found}


def scan_all(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """For every varied number: the transition times of every seed, and how they grow."""
    scan = config.scan
    values = {name: tried for name in page.SYMBOLS if (tried := getattr(scan, name))}
    seeds = range(config.seed, config.seed + scan.seeds)
    settings = {
        f"{name}={value:g}, seed={seed}": (replace(config.flow, **{name: value}), seed, scan.level)
        for name in values
        for value in values[name]
        for seed in seeds
    }
    times = sweep("transition", settings, time_of_transition, run, progress)
    by_name = {
        name: [[times[f"{name}={value:g}, seed={seed}"] for seed in seeds] for value in values[name]]
        for name in values
    }
    return {name: summarise(name, list(values[name]), rows) for name, rows in by_name.items()}


def summarise(name: str, values: list[float], rows: list[list[float | None]]) -> dict[str, Any]:
    """Times against one number: the local powers, and the power law where there are values enough for one.

    Values at which some seed has no transition are ignored: its time is longer than ``t_end``.
    """
    axis = [math.expm1(value) if name == "diagonal" else float(value) for value in values]
    seen: dict[float, list[float]] = {
        x: [t for t in row if t is not None] for x, row in zip(axis, rows, strict=True) if None not in row
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


def compare_descent(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """SGD seeds and their flow at the same times."""
    descent, level = config.descent, config.scan.level
    seeds = range(config.seed, config.seed + descent.seeds)
    settings = {f"seed={each}": (descent, each) for each in seeds}
    histories = list(sweep("descent", settings, descend_once, run, progress).values())
    times = histories[0]["t"]
    beside = run.unit("descent/flow", lambda: flow_beside(descent.flow, level, config.seed, times))
    below = level * beside["plateau"]
    return {
        "t": times,
        "seeds": {str(each): history for each, history in zip(seeds, histories, strict=True)},
        **over_seeds(histories),
        "flow": beside,
        "transition": [time_below(history["t"], history["loss"], below) for history in histories],
    }


def flow_beside(setting: FlowSetting, level: float, seed: int, times: list[float]) -> dict[str, Any]:
    """The flow of the descent's setting at the descent's times; None if it ended before."""
    flow = make_flow(setting, seed)
    trajectory = integrate(flow, setting, setting.t_end)
    at_times = {name: np.interp(times, trajectory.t, getattr(trajectory, name)).tolist() for name in STATE}
    shown = {
        name: [value if t <= trajectory.valid_until else None for t, value in zip(times, curve, strict=True)]
        for name, curve in at_times.items()
    }
    transition = time_of_transition(setting, seed, level)
    return {**shown, "plateau": plateau_loss(flow), "transition": transition, "stopped": trajectory.stopped}


def descend_once(descent: Descent, seed: int) -> dict[str, list[float]]:
    """One SGD from the flow's start: its loss on test samples, and the four numbers read off it, over time."""
    generator, setting = Generator().manual_seed(seed), descent.flow
    partition = Partition.random(setting.num_patches, setting.set_size, generator=generator)
    task = StructuredTask(partition, dim=descent.dim, noise_rate=setting.noise_rate, generator=generator)
    options = (setting.power, setting.linear, setting.diagonal, setting.scale)
    model = SimplifiedViT(setting.num_patches, descent.dim, *options, init_std=0.0)
    model.value.data = setting.alpha * task.feature
    test = task.sample(descent.test_samples, generator=generator)
    steps = math.ceil(setting.t_end / descent.rate)
    training = descend_in_law(model, task, descent.batch_size, steps, descent.rate, generator=generator)
    history = track(
        training,
        np.geomspace(1, steps, descent.measurements).astype(int).tolist(),
        lambda step: {**describe(model, task, test), **four_numbers(model, task)},
    )
    return {"t": [descent.rate * updates for updates in history.pop("step")], **history}


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

"""The phases of training: the population flow's plateau and transition, how long it lasts, and SGD on top of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Generator

from posattn.data.structured import Partition, StructuredTask
from posattn.learning.exact import descend_in_law
from posattn.learning.flow import PopulationFlow, Trajectory
from posattn.measure.scaling import PowerLaw, plateau_loss, power_law, time_below
from posattn.measure.spread import mean_std, mean_std_text
from posattn.models.simplified import SimplifiedViT
from posattn.page import Lines, Section, Table, to_plain
from posattn.recipes import recipe
from posattn.recipes.sweep import sweep
from posattn.recipes.tracking import describe, held_scores, over_seeds
from posattn.records import RunFolder

STATE = ("alpha", "gamma", "rho", "loss", "accuracy")


@dataclass(frozen=True)
class FlowSetting:
    """A population flow from A_ij = 0 and v = α₀ w*."""

    num_patches: int = 480
    """D"""
    set_size: int = 8
    """C"""
    noise_rate: float = 0.25
    """q"""
    power: int = 3
    """p"""
    linear: float = 0.01
    """ν"""
    diagonal: float = 2.0
    """σ_A"""
    scale: float | None = None
    """κ; left out, D"""
    alpha: float = 0.005
    """α₀"""
    samples: int = 4000
    """Of the population, drawn once"""
    t_end: float = 1e10
    rtol: float = 1e-6
    """Tolerance of a step of the solver"""


@dataclass(frozen=True)
class Scan:
    """The values of each number of the setting that is varied, the others held; all within q·D > C².

    A number without values is left out.
    """

    num_patches: tuple[int, ...] = (320, 480, 640, 960, 1280, 1920)
    set_size: tuple[int, ...] = (4, 5, 6, 8, 10)
    noise_rate: tuple[float, ...] = (0.15, 0.2, 0.25, 0.35, 0.5)
    linear: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.02, 0.04)
    diagonal: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    scale: tuple[float, ...] = (1.0, 20.0, 480.0)
    seeds: int = 4
    """Populations drawn of each value"""
    level: float = 0.75
    """The transition is where the loss falls below this share of the plateau's"""


@dataclass(frozen=True)
class Descent:
    """SGD exact in law, in a setting whose plateau it crosses in affordable steps; its flow is drawn beside it."""

    flow: FlowSetting = field(
        default_factory=lambda: FlowSetting(
            num_patches=128, scale=1.0, alpha=0.64, samples=20_000, t_end=25_000.0
        )
    )
    dim: int = 64
    """d, with σ = 1/√d"""
    rate: float = 2.0
    """η: time is η times the number of steps"""
    batch_size: int = 64
    seeds: int = 4
    measurements: int = 40
    test_samples: int = 2048


@dataclass(frozen=True)
class PhasesConfig:
    """The flow shown, the numbers varied, the descent beside it."""

    flow: FlowSetting = field(default_factory=FlowSetting)
    scan: Scan = field(default_factory=Scan)
    descent: Descent = field(default_factory=Descent)
    seed: int = 0


SYMBOLS = {
    "num_patches": "D",
    "set_size": "C",
    "noise_rate": "q",
    "linear": "ν",
    "diagonal": "exp(σ_A) − 1",
    "scale": "κ",
}


def run_phases(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The flow's curves, its transition times over every scan, and the descents."""
    shown = run.unit("flow", lambda: flow_curves(config.flow, config.seed, config.scan.level))
    scans = scan_all(config, run, progress)
    descent = compare_descent(config, run, progress)
    sections = [flow_section(shown, config), descent_section(descent, config), scan_section(scans, config)]
    return {
        "title": "A plateau, then the structure",
        "summary": "The population gradient flow of the simplified ViT in four numbers, and SGD on top of it.",
        "flow": shown,
        "scans": scans,
        "descent": descent,
        "page": to_plain(sections),
    }


def make_flow(setting: FlowSetting, seed: int) -> PopulationFlow:
    """The flow of a setting on the population drawn from ``seed``."""
    names = ("num_patches", "set_size", "noise_rate", "power", "linear", "diagonal", "scale", "samples")
    return PopulationFlow(**{name: getattr(setting, name) for name in names}, seed=seed)


def integrate(flow: PopulationFlow, setting: FlowSetting) -> Trajectory:
    """The flow from A_ij = 0 and v = α₀ w*."""
    return flow.integrate(
        alpha=setting.alpha, beta=0.0, gamma=0.0, rho=0.0, t_end=setting.t_end, rtol=setting.rtol
    )


def at_times(trajectory: Trajectory, times: Sequence[float]) -> dict[str, list[float]]:
    """The flow's numbers at ``times``, linear between the solver's steps."""
    return {name: np.interp(times, trajectory.t, getattr(trajectory, name)).tolist() for name in STATE}


def flow_curves(setting: FlowSetting, seed: int, level: float) -> dict[str, Any]:
    """The flow over time, up to 10 times its transition."""
    flow = make_flow(setting, seed)
    trajectory, plateau = integrate(flow, setting), plateau_loss(flow)
    transition = time_below(trajectory.t, trajectory.loss, level * plateau)
    end = setting.t_end if transition is None else min(setting.t_end, 10 * transition)
    times = np.geomspace(min(1.0, end), end, 200).tolist()
    curves = at_times(trajectory, times)
    return {"t": times, **curves, "plateau": plateau, "transition": transition}


def scan_all(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """For every varied number: the transition times of every seed and the fitted power."""
    values = {name: tried for name in SYMBOLS if (tried := getattr(config.scan, name))}
    settings = {
        f"{name}={value:g}, seed={config.seed + index}": (
            replace(config.flow, **{name: value}),
            config.seed + index,
            config.scan.level,
        )
        for name in values
        for value in values[name]
        for index in range(config.scan.seeds)
    }
    times = list(sweep("transition", settings, transition_time, run, progress).values())
    by_name: dict[str, Any] = {}
    for name in values:
        rows = [[times.pop(0) for _ in range(config.scan.seeds)] for _ in values[name]]
        by_name[name] = {"values": list(values[name]), "times": rows, **fit_scan(name, values[name], rows)}
    return by_name


def transition_time(setting: FlowSetting, seed: int, level: float) -> float | None:
    """When the flow's loss falls below ``level`` times the plateau's; None where it does not before ``t_end``."""
    flow = make_flow(setting, seed)
    trajectory = integrate(flow, setting)
    return time_below(trajectory.t, trajectory.loss, level * plateau_loss(flow))


def fit_scan(name: str, values: Sequence[float], rows: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """The power law through all points whose transition was seen, the local powers, and what the figure shows.

    No law where it was seen at fewer than three values.
    """
    axis = [math.expm1(value) if name == "diagonal" else float(value) for value in values]
    seen = [(x, [t for t in row if t is not None]) for x, row in zip(axis, rows, strict=True)]
    seen = [(x, row) for x, row in seen if row]
    points = [(x, time) for x, row in seen for time in row]
    law = power_law([x for x, _ in points], [time for _, time in points]) if len(seen) > 2 else None
    xs, means = [x for x, _ in seen], [mean_std(row) for _, row in seen]
    logs = np.log([mean for mean, _ in means])
    return {
        "law": law and law._asdict(),
        "local": (np.diff(logs) / np.diff(np.log(xs))).tolist(),
        "x": xs,
        "mean": [mean for mean, _ in means],
        "std": [std for _, std in means],
        "fit": [law(x) for x in xs] if law else [],
    }


def compare_descent(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """SGD seeds and their flow at the same times."""
    descent, seeds = config.descent, range(config.seed, config.seed + config.descent.seeds)
    settings = {f"seed={seed}": (descent, seed) for seed in seeds}
    histories = list(sweep("descent", settings, descend_once, run, progress).values())
    times = histories[0]["t"]
    beside = run.unit("descent/flow", lambda: flow_beside(config, times))
    level = config.scan.level * beside["plateau"]
    crossings = [time_below(history["t"], history["loss"], level) for history in histories]
    return {
        "t": times,
        "seeds": {str(seed): history for seed, history in zip(seeds, histories, strict=True)},
        **over_seeds(histories),
        "flow": beside,
        "transition": crossings,
    }


def flow_beside(config: PhasesConfig, times: Sequence[float]) -> dict[str, Any]:
    """The flow of the descent's setting at the descent's times."""
    setting = config.descent.flow
    flow = make_flow(setting, config.seed)
    trajectory, plateau = integrate(flow, setting), plateau_loss(flow)
    transition = time_below(trajectory.t, trajectory.loss, config.scan.level * plateau)
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
    steps = math.ceil(setting.t_end / descent.rate)
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


def flow_section(numbers: dict[str, Any], config: PhasesConfig) -> Section:
    """The flow alone."""
    at = "is not seen" if numbers["transition"] is None else f"comes at t = {numbers['transition']:.3g}"
    claim = (
        f"The loss stays at {numbers['plateau']:.3f}, the least that v alone reaches, until the sets are found: the "
        f"transition {at}, after which γ is {numbers['gamma'][-1]:.2f}, ρ {numbers['rho'][-1]:.2f}, accuracy "
        f"{numbers['accuracy'][-1]:.3f} (D = {config.flow.num_patches}, C = {config.flow.set_size}, "
        f"q = {config.flow.noise_rate:g})."
    )
    time = "time (rate times steps)"
    figures = [
        ("Loss and accuracy of the population flow", {"loss": "loss", "accuracy": "accuracy"}),
        ("The scores", {"γ, inside a set": "gamma", "ρ, outside": "rho"}),
        ("The value vector", {"α": "alpha"}),
    ]
    items = [
        Lines(title, "flow.t", {k: f"flow.{v}" for k, v in curves.items()}, x_label=time, x_log=True)
        for title, curves in figures
    ]
    return Section("The plateau and the transition", claim, [*items])


def descent_section(numbers: dict[str, Any], config: PhasesConfig) -> Section:
    """SGD on top of the flow."""
    seen = [time for time in numbers["transition"] if time is not None]
    beside = numbers["flow"]["transition"]
    setting, descent = config.descent.flow, config.descent
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


def scan_section(numbers: dict[str, Any], config: PhasesConfig) -> Section:
    """How the transition time scales."""
    laws = {name: PowerLaw(**scan["law"]) for name, scan in numbers.items() if scan["law"]}
    powers = ", ".join(f"{law.exponent:.2f} in {SYMBOLS[name]}" for name, law in laws.items())
    base = config.flow
    claim = (
        f"Fitted powers of the transition time: {powers or 'none'}. They are averages over the range: where the first "
        "and the last local power in the table differ, the curve bends and is no power law."
    )
    items = [scan_figure(name, fitted=name in laws) for name, scan in numbers.items() if scan["x"]]
    columns = [
        "varied",
        "range",
        "power",
        "95% interval",
        "R²",
        "first local power",
        "last local power",
        "seen",
    ]
    table = Table(
        "Fitted powers of the transition time",
        columns,
        [scan_row(name, scan, laws.get(name)) for name, scan in numbers.items()],
        f"Around D = {base.num_patches}, C = {base.set_size}, q = {base.noise_rate:g}, p = {base.power}, "
        f"ν = {base.linear:g}, σ_A = {base.diagonal:g}; {config.scan.seeds} populations of {base.samples} samples a "
        f"value. The transition: the loss falls below {config.scan.level:g} of the plateau's.",
    )
    return Section("How long the plateau lasts", claim, [*items, table])


def scan_figure(name: str, fitted: bool) -> Lines:
    """The transition time against one number, with the power law where there is one."""
    law = {"power law": f"scans.{name}.fit"} if fitted else {}
    return Lines(
        f"Transition time against {SYMBOLS[name]}",
        f"scans.{name}.x",
        {"measured": f"scans.{name}.mean", **law},
        {"measured": f"scans.{name}.std"},
        x_label=SYMBOLS[name],
        y_label="transition time",
        x_log=True,
        y_log=True,
    )


def scan_row(name: str, scan: dict[str, Any], law: PowerLaw | None) -> list[str]:
    """One row of the table of powers."""
    times = [time for row in scan["times"] for time in row]
    seen = f"{sum(time is not None for time in times)} of {len(times)}"
    if law is None:
        return [SYMBOLS[name], *["too few seen"] * 6, seen]
    span, interval = f"{scan['x'][0]:.4g} to {scan['x'][-1]:.4g}", f"{law.low:.2f} to {law.high:.2f}"
    local = [f"{scan['local'][i]:.2f}" for i in (0, -1)]
    return [SYMBOLS[name], span, f"{law.exponent:.2f}", interval, f"{law.r_squared:.3f}", *local, seen]


@recipe(run_phases)
def phases(smoke: bool = False) -> PhasesConfig:
    """The population flow's plateau and transition, how the transition time scales, and SGD on top of the flow.

    Claim: MEASURED
    Command: posattn run phases
    Time: MEASURED
    Expected: MEASURED
    """
    if not smoke:
        return PhasesConfig()
    small = FlowSetting(num_patches=96, samples=300, t_end=2e4, rtol=1e-4)
    return PhasesConfig(
        small,
        Scan((80, 96, 112), (), (), (), (), (), seeds=1),
        Descent(
            replace(small, scale=1.0, alpha=0.64, t_end=400.0), seeds=2, measurements=8, test_samples=256
        ),
    )

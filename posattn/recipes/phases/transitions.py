"""How the transition time of the population flow scales with each number of its setting."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import Progress

from posattn.recipes.phases.flows import transition_time
from posattn.recipes.phases.settings import FlowSetting, Scan
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table
from posattn.runs.seeds import mean_std
from posattn.runs.sweep import sweep
from posattn.theory.scaling import PowerLaw, power_law

SYMBOLS = {
    "num_patches": "D",
    "set_size": "C",
    "noise_rate": "q",
    "linear": "ν",
    "diagonal": "exp(σ_A) − 1",
    "scale": "κ",
}


def scan_all(base: FlowSetting, scan: Scan, seed: int, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """For every varied number: the transition times of every seed and the fitted power."""
    values = {name: tried for name in SYMBOLS if (tried := getattr(scan, name))}
    settings = {
        f"{name}={value:g}, seed={seed + index}": (
            replace(base, **{name: value}),
            seed + index,
            scan.level,
        )
        for name in values
        for value in values[name]
        for index in range(scan.seeds)
    }
    times = list(sweep("transition", settings, transition_time, run, progress).values())
    by_name: dict[str, Any] = {}
    for name in values:
        rows = [[times.pop(0) for _ in range(scan.seeds)] for _ in values[name]]
        by_name[name] = {"values": list(values[name]), "times": rows, **fit_scan(name, values[name], rows)}
    return by_name


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


def scan_section(numbers: dict[str, Any], base: FlowSetting, scan: Scan) -> Section:
    """How the transition time scales."""
    laws = {name: PowerLaw(**found["law"]) for name, found in numbers.items() if found["law"]}
    powers = ", ".join(f"{law.exponent:.2f} in {SYMBOLS[name]}" for name, law in laws.items())
    claim = (
        f"Fitted powers of the transition time: {powers or 'none'}. They are averages over the range: where the first "
        "and the last local power in the table differ, the curve bends and is no power law."
    )
    items = [scan_figure(name, fitted=name in laws) for name, found in numbers.items() if found["x"]]
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
        [scan_row(name, found, laws.get(name)) for name, found in numbers.items()],
        f"Around D = {base.num_patches}, C = {base.set_size}, q = {base.noise_rate:g}, p = {base.power}, "
        f"ν = {base.linear:g}, σ_A = {base.diagonal:g}; {scan.seeds} populations of {base.samples} samples a "
        f"value. The transition: the loss falls below {scan.level:g} of the plateau's.",
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

"""The phases of training: the population flow's plateau and transition, how long it lasts, and SGD on top of it."""

from typing import Any

import numpy as np
from rich.progress import Progress

from posattn.recipes.phases.descent import compare_descent, descent_section
from posattn.recipes.phases.flows import at_times, integrate, make_flow
from posattn.recipes.phases.settings import FlowSetting, PhasesConfig
from posattn.recipes.phases.transitions import scan_all, scan_section
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, to_plain
from posattn.theory.scaling import plateau_loss, time_below


def run(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The flow's curves, its transition times over every scan, and the descents."""
    shown = run.unit("flow", lambda: flow_curves(config.flow, config.seed, config.scan.level))
    scans = scan_all(config.flow, config.scan, config.seed, run, progress)
    descent = compare_descent(config.descent, config.scan.level, config.seed, run, progress)
    sections = [
        flow_section(shown, config.flow),
        descent_section(descent, config.descent),
        scan_section(scans, config.flow, config.scan),
    ]
    return {
        "title": "A plateau, then the structure",
        "summary": "The population gradient flow of the simplified ViT in four numbers, and SGD on top of it.",
        "flow": shown,
        "scans": scans,
        "descent": descent,
        "page": to_plain(sections),
    }


def flow_curves(setting: FlowSetting, seed: int, level: float) -> dict[str, Any]:
    """The flow over time, up to 10 times its transition."""
    flow = make_flow(setting, seed)
    trajectory, plateau = integrate(flow, setting), plateau_loss(flow)
    transition = time_below(trajectory.t, trajectory.loss, level * plateau)
    end = setting.t_end if transition is None else min(setting.t_end, 10 * transition)
    times = np.geomspace(min(1.0, end), end, 200).tolist()
    curves = at_times(trajectory, times)
    return {"t": times, **curves, "plateau": plateau, "transition": transition}


def flow_section(numbers: dict[str, Any], setting: FlowSetting) -> Section:
    """The flow alone."""
    at = "is not seen" if numbers["transition"] is None else f"comes at t = {numbers['transition']:.3g}"
    claim = (
        f"The loss stays at {numbers['plateau']:.3f}, the least that v alone reaches, until the sets are found: the "
        f"transition {at}, after which γ is {numbers['gamma'][-1]:.2f}, ρ {numbers['rho'][-1]:.2f}, accuracy "
        f"{numbers['accuracy'][-1]:.3f} (D = {setting.num_patches}, C = {setting.set_size}, "
        f"q = {setting.noise_rate:g})."
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

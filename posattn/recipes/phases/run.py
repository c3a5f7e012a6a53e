"""The phases of training: the population flow's plateau and transition, how long it lasts, and SGD on top of it."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.progress import Progress

from posattn.recipes import recipe
from posattn.recipes.phases.descent import Descent, compare_descent, descent_section
from posattn.recipes.phases.flows import FlowSetting, at_times, integrate, make_flow
from posattn.recipes.phases.transitions import Scan, scan_all, scan_section
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, to_plain
from posattn.theory.scaling import plateau_loss, time_below


@dataclass(frozen=True)
class PhasesConfig:
    """The flow shown, the numbers varied, the descent beside it."""

    flow: FlowSetting = field(default_factory=FlowSetting)
    scan: Scan = field(default_factory=Scan)
    descent: Descent = field(default_factory=Descent)
    seed: int = 0


def run_phases(config: PhasesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
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


@recipe(run_phases)
def phases(smoke: bool = False) -> PhasesConfig:
    """The population flow's plateau and transition, how the transition time scales, and SGD on top of the flow.

    Claim: the loss stays at the least that v alone reaches until γ has grown, then falls; SGD follows the flow; the
    plateau lasts longer with larger D, q and ν, less long with larger C and σ_A, and as long whatever κ.
    Command: posattn run phases
    Time: 170 s of CPU time (2 CPU cores shared with much other work; 18 minutes there with --jobs 1).
    Expected, seeds 0 to 3: plateau 0.494 and transition at t = 7.3e5 (D = 480, C = 8, q = 0.25); SGD at D = 128 has
    its transition at 9269 ± 856, the flow at 9334; powers with 95% intervals: D 4.63 (4.50 to 4.77), C -2.84 (-2.96
    to -2.71), q 2.18 (2.07 to 2.28), ν 0.68 (0.56 to 0.81), exp(σ_A) - 1 -0.66 (-0.70 to -0.62), κ 0.00. Only C and q
    come near a power law: the local power goes from 3.9 to 5.2 in D and from 0.2 to 1.5 in ν.
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

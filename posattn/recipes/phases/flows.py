"""Population flows as recipes set them up, and the time of their transition."""

from collections.abc import Sequence

import numpy as np

from posattn.recipes.phases.settings import FlowSetting
from posattn.theory.flow import PopulationFlow, Trajectory
from posattn.theory.scaling import plateau_loss, time_below

STATE = ("alpha", "gamma", "rho", "loss", "accuracy")  # what is shown of a trajectory


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


def transition_time(setting: FlowSetting, seed: int, level: float) -> float | None:
    """When the flow's loss falls below ``level`` times the plateau's; None where it does not before ``t_end``."""
    flow = make_flow(setting, seed)
    trajectory = integrate(flow, setting)
    return time_below(trajectory.t, trajectory.loss, level * plateau_loss(flow))

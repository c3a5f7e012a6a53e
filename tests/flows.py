"""Flows and states that several tests share."""

from dataclasses import astuple

import numpy as np
from numpy import ndarray

from posattn.theory.flow import PopulationFlow
from posattn.theory.integration import Trajectory

DESIGN = {"num_patches": 512, "set_size": 8, "noise_rate": 0.25}
STATE = {"alpha": 0.05, "beta": 0.04, "gamma": 0.6, "rho": -0.2}
START = {"alpha": 0.005, "beta": 0.0, "gamma": 0.0, "rho": 0.0}
LATE = [
    DESIGN,
    {"num_patches": 384, "set_size": 12, "noise_rate": 0.3, "diagonal": 2.5, "samples": 2000},
    {"num_patches": 96, "set_size": 6, "noise_rate": 0.35, "power": 5, "samples": 1000, "seed": 3},
]


def flow_of(**changes: float) -> PopulationFlow:
    options = {"num_patches": 24, "set_size": 4, "noise_rate": 0.3, "samples": 40, "noise_std": 0.3}
    return PopulationFlow(**(options | changes))  # type: ignore[arg-type]


def columns(run: Trajectory) -> ndarray:
    return np.array(astuple(run)[:-1])


def ends(run: Trajectory) -> ndarray:
    return columns(run)[:, -1]

"""Where the structure is found: final association over the sign noise, the fixed diagonal and the noise."""

import math
import warnings
from itertools import product
from typing import Any

import numpy as np
from rich.progress import Progress
from torch import Generator

from posattn.recipes.boundaries import page
from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.recipes.kit.theory import draw_task, exact
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.sweep import sweep, sweep_seeds
from posattn.theory.accuracy import accuracy_in_law
from posattn.theory.flow import PopulationFlow
from posattn.theory.in_law import descend_in_law
from posattn.theory.integration import SampleExhaustedWarning
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.tracking import association_of_others


def run(config: BoundariesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The diagram by descent at every σ, and by the flow."""
    cells = {
        f"std={exact(std)}/ratio={exact(ratio)}": (config, ratio, std)
        for std, ratio in product(config.noise_stds, config.ratios)
    }
    trained = np.array(list(sweep_seeds("descent", cells, config.all_seeds, descend, run, progress).values()))
    by_noise = trained.mean(1).reshape(len(config.noise_stds), len(config.ratios), -1, 2)
    association, accuracy = by_noise.transpose(3, 0, 2, 1).tolist()
    flows = {f"ratio={exact(ratio)}": (config, ratio) for ratio in config.ratios}
    flowed = list(sweep("flow", flows, integrate_flow, run, progress).values())
    ends = np.array([cell["valid_until"] for cell in flowed])
    numbers = {
        "ratios": config.ratios,
        "diagonals": config.diagonals,
        "noise_stds": config.noise_stds,
        "association": association,  # (σ, σ_A, ratio)
        "accuracy": accuracy,
        "contrast": np.array([cell["contrast"] for cell in flowed]).T.tolist(),  # (t, σ_A, ratio)
        "ended": int((ends < max(config.flow_times)).sum()),
    }
    return {
        "title": "Where the structure is found",
        "summary": "Patch association after training, over the sign noise, the fixed diagonal and a patch's noise.",
        "boundaries": numbers,
        "page": to_plain([page.descent_section(config, numbers), page.flow_section(config, numbers)]),
    }


def descend(config: BoundariesConfig, ratio: float, std: float, seed: int) -> list[list[float]]:
    """(association, accuracy) after descent, for every σ_A."""
    found = []
    for diagonal in config.diagonals:
        generator, D, d = Generator().manual_seed(seed), config.num_patches, config.dim
        task = draw_task(D, config.set_size, d, config.noise_rate(ratio), generator, std)
        model = SimplifiedViT(D, d, diagonal=diagonal, generator=generator)
        training = descend_in_law(
            model,
            task,
            config.batch_size,
            config.steps,
            config.rate * math.sqrt(D),
            value_rate=config.value_rate,
            normalize=True,
            generator=generator,
        )
        for _ in training:
            pass
        accuracy = accuracy_in_law(model, task, config.test_samples, generator=generator)
        found.append([association_of_others(model.scores, task.partition), accuracy])
    return found


def integrate_flow(config: BoundariesConfig, ratio: float) -> dict[str, Any]:
    """For every σ_A, γ - ρ of the population flow at each time, and how long its sample represents the population.

    Beyond that time the last value is kept.
    """
    contrasts, valid = [], []
    for diagonal in config.diagonals:
        flow = PopulationFlow(
            num_patches=config.num_patches,
            set_size=config.set_size,
            noise_rate=config.noise_rate(ratio),
            diagonal=diagonal,
            samples=config.flow_samples,
            seed=config.seed,
            importance=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SampleExhaustedWarning)
            path = flow.integrate(alpha=0.005, beta=0.0, gamma=0.0, rho=0.0, t_end=max(config.flow_times))
        contrasts.append(np.interp(config.flow_times, path.t, path.gamma - path.rho).tolist())
        valid.append(float(path.t[-1]))
    return {"contrast": contrasts, "valid_until": valid}

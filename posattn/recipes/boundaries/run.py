"""Where the structure is found: final association over the sign noise, the fixed diagonal and the noise."""

import math
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.progress import Progress
from torch import Generator

from posattn.recipes.boundaries import page
from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.runs.folder import RunFolder
from posattn.runs.sweep import sweep
from posattn.structure.partition import Partition
from posattn.theory.accuracy import accuracy_in_law
from posattn.theory.flow import PopulationFlow
from posattn.theory.in_law import descend_in_law
from posattn.theory.integration import SampleExhaustedWarning
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import association_of_others, check_sets


def run(config: BoundariesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The diagram by descent at every σ, and by the flow."""
    check_sets(Partition.contiguous(config.num_patches, config.set_size))  # before anything is trained
    for ratio in config.ratios:
        config.noise_rate(ratio)
    seeds = range(config.seed, config.seed + config.seeds)
    cells = {
        f"std={std:g}/ratio={ratio:.4g}/seed={seed}": (config, ratio, std, seed)
        for std in config.noise_stds
        for ratio in config.ratios
        for seed in seeds
    }
    trained = sweep("descent", cells, descend_at, run, progress)
    flows = {f"ratio={ratio:.4g}": (config, ratio) for ratio in config.ratios}
    flowed = sweep("flow", flows, flow_at, run, progress)
    shape = (len(config.noise_stds), len(config.ratios), len(seeds), len(config.diagonals), 2)
    means = np.array(list(trained.values())).reshape(shape).mean(2)  # (σ, ratio, σ_A, what)
    association, accuracy = means.transpose(3, 0, 2, 1).tolist()
    contrast, valid = (
        np.array([cell[what] for cell in flowed.values()]) for what in ("contrast", "valid_until")
    )
    numbers = {
        **{name: asdict(config)[name] for name in ("ratios", "diagonals", "noise_stds")},
        "association": association,  # (σ, σ_A, ratio)
        "accuracy": accuracy,
        "contrast": contrast.T.tolist(),  # (t, σ_A, ratio)
        "ended": int((valid < max(config.flow_times)).sum()),
    }
    return {
        "title": "Where the structure is found",
        "summary": "Patch association after training, over the sign noise, the fixed diagonal and a patch's noise.",
        "boundaries": numbers,
        "page": page.sections(config, numbers),
    }


def descend_at(config: BoundariesConfig, ratio: float, std: float, seed: int) -> list[list[float]]:
    """(association, accuracy) after descent, for every σ_A."""
    found = []
    for diagonal in config.diagonals:
        generator = Generator().manual_seed(seed)
        partition = Partition.random(config.num_patches, config.set_size, generator=generator)
        noise: dict[str, Any] = {"noise_rate": config.noise_rate(ratio), "noise_std": std}
        task = StructuredTask(partition, dim=config.dim, generator=generator, **noise)
        model = SimplifiedViT(config.num_patches, config.dim, diagonal=diagonal, generator=generator)
        rates: dict[str, Any] = {
            "rate": config.rate * math.sqrt(config.num_patches),
            "value_rate": config.value_rate,
        }
        sizes = (config.batch_size, config.steps)
        for _ in descend_in_law(model, task, *sizes, **rates, normalize=True, generator=generator):
            pass
        accuracy = accuracy_in_law(model, task, config.test_samples, generator=generator)
        found.append([association_of_others(model.scores, partition), accuracy])
    return found


def flow_at(config: BoundariesConfig, ratio: float) -> dict[str, Any]:
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

"""Where the structure is found: final association over the sign noise, the fixed diagonal and the noise."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.progress import Progress
from torch import Generator

from posattn import checks
from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import HeatMaps, Section, Table, to_plain
from posattn.runs.sweep import sweep
from posattn.shapes import Scores
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory.accuracy import accuracy_in_law
from posattn.theory.flow import PopulationFlow
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

FOUND = 0.9  # an association from which on the sets count as found


def run(config: BoundariesConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The diagram by descent at every σ, and by the flow."""
    for ratio in config.ratios:  # said before anything is trained
        config.noise_rate(ratio)
    seeds = [config.seed + index for index in range(checks.positive_int("seeds", config.seeds))]
    settings = {
        f"std={std:g}/ratio={ratio:.4g}/seed={seed}": (config, ratio, std, seed)
        for std in config.noise_stds
        for ratio in config.ratios
        for seed in seeds
    }
    trained = list(sweep("descent", settings, descend_at, run, progress).values())
    shape = (len(config.noise_stds), len(config.ratios), len(seeds), len(config.diagonals), 2)
    association, accuracy = np.moveaxis(np.array(trained).reshape(shape).mean(2), (3, 1, 2), (0, 3, 2))
    flows = {f"ratio={ratio:.4g}": (config, ratio) for ratio in config.ratios}
    contrast = np.array(list(sweep("flow", flows, flow_at, run, progress).values())).T
    numbers = {
        "ratios": list(config.ratios),
        "diagonals": list(config.diagonals),
        "noise_stds": list(config.noise_stds),
        "association": association.tolist(),  # (σ, σ_A, ratio)
        "accuracy": accuracy.tolist(),
        "contrast": contrast.tolist(),  # (t, σ_A, ratio)
    }
    return {
        "title": "Where the structure is found",
        "summary": "Patch association after training, over the sign noise, the fixed diagonal and a patch's noise.",
        "boundaries": numbers,
        "page": to_plain([descent_section(config, numbers), flow_section(config, numbers)]),
    }


def descend_at(config: BoundariesConfig, ratio: float, std: float, seed: int) -> list[list[float]]:
    """(association, accuracy) after descent, for every σ_A."""
    found = []
    for diagonal in config.diagonals:
        generator = Generator().manual_seed(seed)
        partition = Partition.random(config.num_patches, config.set_size, generator=generator)
        task = StructuredTask(
            partition,
            dim=config.dim,
            noise_rate=config.noise_rate(ratio),
            noise_std=std,
            generator=generator,
        )
        model = SimplifiedViT(config.num_patches, config.dim, diagonal=diagonal, generator=generator)
        rate = config.rate * math.sqrt(config.num_patches)
        for _ in descend_in_law(
            model,
            task,
            config.batch_size,
            config.steps,
            rate,
            value_rate=config.value_rate,
            normalize=True,
            generator=generator,
        ):
            pass
        accuracy = accuracy_in_law(model, task, config.test_samples, generator=generator)
        found.append([association_of_others(model.scores, partition), accuracy])
    return found


def association_of_others(scores: Scores, partition: Partition) -> float:
    """The share of each row's C - 1 largest scores off the diagonal, which is fixed, that lie in the own set."""
    others = scores.detach().clone()
    top_c = patch_association(others.fill_diagonal_(float(others.abs().max()) + 1), partition).top_c
    C = partition.set_size
    return float((C * top_c - 1) / (C - 1))


def flow_at(config: BoundariesConfig, ratio: float) -> list[list[float]]:
    """γ - ρ of the population flow at each time, for every σ_A."""
    contrasts = []
    for diagonal in config.diagonals:
        flow = PopulationFlow(
            num_patches=config.num_patches,
            set_size=config.set_size,
            noise_rate=config.noise_rate(ratio),
            diagonal=diagonal,
            samples=config.flow_samples,
            seed=config.seed,
        )
        path = flow.integrate(alpha=0.005, beta=0.0, gamma=0.0, rho=0.0, t_end=max(config.flow_times))
        contrasts.append(np.interp(config.flow_times, path.t, path.gamma - path.rho).tolist())
    return contrasts


def least_diagonal(config: BoundariesConfig, column: list[float]) -> float | None:
    """The least σ_A from which on the sets are found, None where they are not at the largest."""
    below = [d for d, a in zip(config.diagonals, column, strict=True) if a < FOUND]
    above = [d for d in config.diagonals if not below or d > max(below)]
    return min(above, default=None)


def descent_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by descent."""
    association = np.array(numbers["association"]).swapaxes(1, 2)  # (σ, ratio, σ_A)
    texts = [
        [diagonal_text(least_diagonal(config, column)) for column in panel] for panel in association.tolist()
    ]
    under, over = (association[0][np.array(config.ratios) <= 1], association[0][np.array(config.ratios) > 1])
    claim = (
        "Descent from a random start finds the sets where the fixed diagonal is large enough, and what is enough grows "
        "with the sign noise and the noise; the line q·D = C², beyond which the sum over all patches no longer tells "
        f"the label, is not where it ends. Here, at σ = {config.noise_stds[0]:g}, σ_A = {config.diagonals[0]:g} left "
        f"the association at {mean_at(under, 0)} on and below the line and at {mean_at(over, 0)} above it, "
        f"σ_A = {config.diagonals[-1]:g} took it to {mean_at(under, -1)} and {mean_at(over, -1)}. The least σ_A at "
        f"which it reached {FOUND:g} went from {texts[0][0]} at q·D/C² = {config.ratios[0]:g} to {texts[0][-1]} at "
        f"{config.ratios[-1]:g}; at σ = {config.noise_stds[-1]:g}, from {texts[-1][0]} to {texts[-1][-1]}."
    )
    x_y = {"x": "boundaries.ratios", "y": "boundaries.diagonals", "x_label": "q·D / C²", "y_label": "σ_A"}
    panels = [f"σ = {std:g}" for std in config.noise_stds]
    seeds = f"Mean over {config.seeds} {'seed' if config.seeds == 1 else 'seeds'}; dashed: q·D = C²."
    rows = [[panel, *row] for panel, row in zip(panels, texts, strict=True)]
    return Section(
        "By descent",
        claim,
        [
            HeatMaps(
                "Patch association",
                "boundaries.association",
                panels=panels,
                line=1.0,
                caption=f"The share of each row's C - 1 largest scores, the fixed diagonal left out, that lie in its "
                f"own set, after {config.steps} steps. {seeds}",
                **x_y,
            ),
            HeatMaps(
                "Test accuracy",
                "boundaries.accuracy",
                panels=panels,
                line=1.0,
                caption=f"Of the same models. {seeds}",
                **x_y,
            ),
            Table(
                f"The least σ_A from which on the association is at least {FOUND:g}",
                ["q·D / C²", *(f"{r:.3g}" for r in config.ratios)],
                rows,
            ),
        ],
    )


def mean_at(columns: Float[ndarray, "r a"], diagonal: int) -> str:
    """The mean of one σ_A over columns of the diagram."""
    return f"{columns[:, diagonal].mean():.2f}" if len(columns) else "(no setting)"


def diagonal_text(diagonal: float | None) -> str:
    """A σ_A, or that there is none."""
    return "none" if diagonal is None else f"{diagonal:g}"


def flow_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by the population flow."""
    contrast = np.array(numbers["contrast"])
    zero = [
        abs(rows).max() for d, rows in zip(config.diagonals, contrast.swapaxes(0, 1), strict=True) if d == 0
    ]
    fixed = f"At σ_A = 0 the contrast stayed within {zero[0]:.0e} of 0. " if zero else ""
    shares = [
        f"{(rows[np.array(config.diagonals) > 0] > 1).mean():.0%} of the settings with σ_A > 0 by t = {t:g}"
        for t, rows in zip(config.flow_times, contrast, strict=True)
    ]
    claim = (
        "In the population only σ_A = 0 is fixed; elsewhere the sets are found in time, so that what bounds descent "
        f"is its time and its samples. Here the contrast γ - ρ of the flow, from 0, exceeded 1 in "
        f"{', in '.join(shares)}. {fixed}"
    ).strip()
    return Section(
        "By the population flow",
        claim,
        [
            HeatMaps(
                "Contrast γ - ρ",
                "boundaries.contrast",
                x="boundaries.ratios",
                y="boundaries.diagonals",
                panels=[f"t = {t:g}" for t in config.flow_times],
                x_label="q·D / C²",
                y_label="σ_A",
                line=1.0,
                caption="Time is rate times number of steps of plain descent. σ plays no part where v starts along w*: "
                "β stays 0. Dashed: q·D = C².",
            )
        ],
    )

"""The page of `posattn run boundaries`."""

from typing import Any

import numpy as np

from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.runs.page import HeatMaps, Section, Table

FOUND = 0.9  # the sets count as found at this association
AXES: dict[str, Any] = {"x": "ratios", "y": "diagonals", "x_label": "q·D / C²", "y_label": "σ_A", "line": 1.0}


def descent_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by descent."""
    columns = np.array(numbers["association"]).swapaxes(1, 2).tolist()  # (σ, ratio, σ_A)
    least = [[least_diagonal(config, column) for column in panel] for panel in columns]
    first, last = config.ratios[0], config.ratios[-1]
    claim = (
        "Descent from a random start finds the sets where the fixed diagonal is large enough; how large it must be "
        "grows with the sign noise and with the noise. The line q·D = C², beyond which the sum over all patches no "
        "longer tells the label, is not where the sets cease to be found. The least σ_A with an association of "
        f"{FOUND:g} goes from {least[0][0]} at q·D/C² = {first:g} to {least[0][-1]} at {last:g} with σ = "
        f"{config.noise_stds[0]:g}, and from {least[-1][0]} to {least[-1][-1]} with σ = {config.noise_stds[-1]:g}."
    )
    panels = [f"σ = {std:g}" for std in config.noise_stds]
    seeds = f"Mean over {config.seeds} {'seed' if config.seeds == 1 else 'seeds'}; dashed: q·D = C²."
    caption = (
        "The share of each row's C - 1 largest scores off the fixed diagonal that lie in its own set, after "
        f"{config.steps} steps. {seeds}"
    )
    table = Table(
        f"The least σ_A from which on the association is at least {FOUND:g}",
        ["q·D / C²", *(f"{r:.3g}" for r in config.ratios)],
        [[panel, *row] for panel, row in zip(panels, least, strict=True)],
    )
    maps = [
        HeatMaps("Patch association", "association", panels=panels, caption=caption, **AXES),
        HeatMaps("Test accuracy", "accuracy", panels=panels, caption=f"Of the same models. {seeds}", **AXES),
    ]
    return Section("By descent", claim, [*maps, table], at="boundaries")


def flow_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by the population flow."""
    contrast, diagonals = np.array(numbers["contrast"]), np.array(config.diagonals)
    zero, positive = contrast[:, diagonals == 0], contrast[:, diagonals > 0]
    fixed = f" At σ_A = 0 it stays within {abs(zero).max():.0e} of 0." if zero.size else ""
    shares = (positive > 1).mean((1, 2)) if positive.size else []
    by_time = [f"{share:.0%} by t = {t:g}" for t, share in zip(config.flow_times, shares, strict=False)]
    claim = (
        "In the population σ_A = 0 is a fixed point, and for σ_A above 0 and q up to 1/2 the sets are found in "
        "time, so what limits descent is its time and its samples. The contrast γ - ρ of the flow, from 0, exceeds "
        f"1 in this share of the settings with σ_A > 0: {', '.join(by_time) or 'none were tried'}.{fixed}"
    )
    caption = (
        "Time is rate times number of steps of plain descent. σ has no effect where v starts along w*: β stays 0. "
        f"Dashed: q·D = C². In {numbers['ended']} of {contrast[0].size} settings the flow's sample stopped "
        "representing the population before the last time: from there on the last value is kept."
    )
    panels = [f"t = {t:g}" for t in config.flow_times]
    figure = HeatMaps("Contrast γ - ρ", "contrast", panels=panels, caption=caption, **AXES)
    return Section("By the population flow", claim, [figure], at="boundaries")


def least_diagonal(config: BoundariesConfig, column: list[float]) -> str:
    """The smallest σ_A from which on the sets are found, or none where they are not found at the largest."""
    below = [d for d, a in zip(config.diagonals, column, strict=True) if a < FOUND]
    above = [d for d in config.diagonals if not below or d > max(below)]
    return f"{min(above):g}" if above else "none"

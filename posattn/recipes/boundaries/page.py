"""The page of `posattn run boundaries`."""

from typing import Any

import numpy as np

from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.runs.page import HeatMaps, Section, Table
from posattn.runs.seeds import averaged_text

FOUND = 0.9  # the sets count as found at this association
AXES: dict[str, Any] = {"x": "ratios", "y": "diagonals", "x_label": "q·D / C²", "y_label": "σ_A"}
BALANCE = 1.0  # the ratio at which q·D = C²


def descent_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by descent."""
    columns = np.array(numbers["association"]).swapaxes(1, 2).tolist()  # (σ, ratio, σ_A)
    least = [[least_diagonal(config, column) for column in panel] for panel in columns]
    panels = [f"σ = {std:g}" for std in config.noise_stds]
    found = "; ".join(
        f"with {panel} it is {ends_text(config, row)}" for panel, row in zip(panels, least, strict=True)
    )
    claim = (
        f"The least fixed diagonal σ_A from which on descent from a random start reaches an association of {FOUND:g}: "
        f"{found}. The sum over all patches no longer decides the label where q·D is above C²."
    )
    seeds = f"{averaged_text('Mean', config.seeds)}.{dashed(config)}"
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
        heat_maps(config, "Patch association", "association", panels, caption),
        heat_maps(config, "Test accuracy", "accuracy", panels, f"Of the same models. {seeds}"),
    ]
    return Section("By descent", claim, [*maps, table], at="boundaries")


def flow_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by the population flow."""
    contrast, diagonals = np.array(numbers["contrast"]), np.array(config.diagonals)
    zero, positive = contrast[:, diagonals == 0], contrast[:, diagonals > 0]
    fixed = f" At σ_A = 0 it stays within {abs(zero).max():.0e} of 0." if zero.size else ""
    shares = (positive > 1).mean((1, 2)) if positive.size else []
    by_time = [f"{share:.0%} by t = {t:g}" for t, share in zip(config.flow_times, shares, strict=False)]
    limits = " There, what limits descent is its time and its samples." if np.any(shares) else ""
    claim = (
        "In the population σ_A = 0 is a fixed point. The contrast γ - ρ of the flow, from 0, exceeds 1 in this share "
        f"of the settings with σ_A > 0: {', '.join(by_time) or 'none were tried'}.{limits}{fixed}"
    )
    caption = (
        "Time is rate times number of steps of plain descent. σ has no effect where v starts along w*: β stays 0."
        f"{dashed(config)} In {numbers['ended']} of {contrast[0].size} settings the flow's sample stopped "
        "representing the population before the last time: from there on the last value is kept."
    )
    panels = [f"t = {t:g}" for t in config.flow_times]
    figure = heat_maps(config, "Contrast γ - ρ", "contrast", panels, caption)
    return Section("By the population flow", claim, [figure], at="boundaries")


def heat_maps(config: BoundariesConfig, title: str, values: str, panels: list[str], caption: str) -> HeatMaps:
    """A figure over q·D / C² and σ_A, with a line at q·D = C² where that is among the ratios or between two."""
    line = BALANCE if crosses(config) else None
    return HeatMaps(title, values, panels=panels, caption=caption, line=line, **AXES)


def crosses(config: BoundariesConfig) -> bool:
    """Whether q·D = C² lies within the ratios."""
    return config.ratios[0] <= BALANCE <= config.ratios[-1]


def dashed(config: BoundariesConfig) -> str:
    """What the line of a figure is, for captions."""
    return " Dashed: q·D = C²." if crosses(config) else ""


def ends_text(config: BoundariesConfig, least: list[str]) -> str:
    """The least σ_A at the first and at the last ratio."""
    first, *others = (
        f"{found} at q·D/C² = {ratio:g}" for found, ratio in zip(least, config.ratios, strict=True)
    )
    return f"{first} and {others[-1]}" if others else first


def least_diagonal(config: BoundariesConfig, column: list[float]) -> str:
    """The smallest σ_A from which on the sets are found, or none where they are not found at the largest."""
    below = [d for d, a in zip(config.diagonals, column, strict=True) if a < FOUND]
    above = [d for d in config.diagonals if not below or d > max(below)]
    return f"{min(above):g}" if above else "none"

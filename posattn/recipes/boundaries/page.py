"""The page of `posattn run boundaries`."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.runs.page import HeatMaps, Section, Table, to_plain

FOUND = 0.9  # the sets count as found at this association
AXES: dict[str, Any] = {"x": "ratios", "y": "diagonals", "x_label": "q·D / C²", "y_label": "σ_A", "line": 1.0}


def sections(config: BoundariesConfig, numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The two sections of the page."""
    return to_plain([descent_section(config, numbers), flow_section(config, numbers)])


def descent_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by descent."""
    association = np.array(numbers["association"]).swapaxes(1, 2)  # (σ, ratio, σ_A)
    texts = [
        [diagonal_text(least_diagonal(config, column)) for column in panel] for panel in association.tolist()
    ]
    on_or_below = np.array(config.ratios) <= 1
    below, above = association[0][on_or_below], association[0][~on_or_below]
    claim = (
        "Descent from a random start finds the sets where the fixed diagonal is large enough; how large it must be "
        "grows with the sign noise and with the noise. The line q·D = C², beyond which the sum over all patches no "
        "longer tells the label, is not where the sets cease to be found. "
        f"Here, at σ = {config.noise_stds[0]:g}, σ_A = {config.diagonals[0]:g} gives an association of "
        f"{mean_at(below, 0)} on and below the line and {mean_at(above, 0)} above it, σ_A = {config.diagonals[-1]:g} "
        f"gives {mean_at(below, -1)} and {mean_at(above, -1)}. The least σ_A with {FOUND:g} goes from {texts[0][0]} at "
        f"q·D/C² = {config.ratios[0]:g} to {texts[0][-1]} at {config.ratios[-1]:g}; at σ = {config.noise_stds[-1]:g}, "
        f"from {texts[-1][0]} to {texts[-1][-1]}."
    )
    panels = [f"σ = {std:g}" for std in config.noise_stds]
    seeds = f"Mean over {config.seeds} {'seed' if config.seeds == 1 else 'seeds'}; dashed: q·D = C²."
    association_caption = (
        f"The share of each row's C - 1 largest scores off the fixed diagonal that lie in its own set, after "
        f"{config.steps} steps. {seeds}"
    )
    return Section(
        "By descent",
        claim,
        [
            HeatMaps("Patch association", "association", panels=panels, caption=association_caption, **AXES),
            HeatMaps(
                "Test accuracy", "accuracy", panels=panels, caption=f"Of the same models. {seeds}", **AXES
            ),
            Table(
                f"The least σ_A from which on the association is at least {FOUND:g}",
                ["q·D / C²", *(f"{r:.3g}" for r in config.ratios)],
                [[panel, *row] for panel, row in zip(panels, texts, strict=True)],
            ),
        ],
        at="boundaries",
    )


def flow_section(config: BoundariesConfig, numbers: dict[str, Any]) -> Section:
    """The diagram by the population flow."""
    contrast, diagonals = np.array(numbers["contrast"]), np.array(config.diagonals)
    zero, other = contrast[:, diagonals == 0], contrast[:, diagonals > 0]
    fixed = f" At σ_A = 0 it stays within {abs(zero).max():.0e} of 0." if zero.size else ""
    shares = ", ".join(
        f"{share:.0%} by t = {t:g}"
        for t, share in zip(config.flow_times, (other > 1).mean((1, 2)), strict=True)
        if other.size
    )
    claim = (
        "In the population only σ_A = 0 is a fixed point: for every other σ_A the sets are found in time, so what "
        "limits descent is its time and its samples. The contrast γ - ρ of the flow, from 0, exceeds 1 in this share "
        f"of the settings with σ_A > 0: {shares or 'none were tried'}.{fixed}"
    )
    caption = (
        "Time is rate times number of steps of plain descent. σ has no effect where v starts along w*: β stays 0. "
        f"Dashed: q·D = C². In {numbers['ended']} of {contrast[0].size} settings the flow's sample stopped standing "
        "for the population before the last time: from there on the last value is kept."
    )
    panels = [f"t = {t:g}" for t in config.flow_times]
    return Section(
        "By the population flow",
        claim,
        [HeatMaps("Contrast γ - ρ", "contrast", panels=panels, caption=caption, **AXES)],
        at="boundaries",
    )


def least_diagonal(config: BoundariesConfig, column: list[float]) -> float | None:
    """The smallest σ_A from which on the sets are found, None if they are not found at the largest."""
    below = [d for d, a in zip(config.diagonals, column, strict=True) if a < FOUND]
    above = [d for d in config.diagonals if not below or d > max(below)]
    return min(above, default=None)


def mean_at(columns: Float[ndarray, "r a"], diagonal: int) -> str:
    """The mean of one σ_A over columns of the diagram."""
    return f"{columns[:, diagonal].mean():.2f}" if len(columns) else "(no setting)"


def diagonal_text(diagonal: float | None) -> str:
    """A σ_A, or that there is none."""
    return "none" if diagonal is None else f"{diagonal:g}"

"""The page of `posattn run solutions`."""

from statistics import fmean
from typing import Any

from posattn.recipes.solutions.settings import SolutionsConfig
from posattn.runs.page import Gallery, Section, Table, mean_table
from posattn.runs.seeds import averaged_text, mean_std_text

MEASURES = {
    "accuracy": "test accuracy",
    "association": "patch association",
    "exact": "exact rows",
    "mass": "mass",
    "loss": "test loss",
}


def built_section(numbers: dict[str, Any], labels: list[str]) -> Section:
    """The solutions as built."""
    built = {family: one["built"] for family, one in numbers.items()}
    said = "; ".join(
        f"{family} {fmean(one['accuracy']):.3f} ({fmean(one['association']):.2f})"
        for family, one in built.items()
    )
    table = mean_table(
        "As built, mean ± std over seeds",
        ["solution", *MEASURES.values()],
        {family: [one[name] for name in MEASURES] for family, one in built.items()},
        caption="Mass: the share of attention inside the own set.",
    )
    maps = Gallery(
        "Attention maps as built and after training",
        "solutions:maps",
        labels,
        caption="Rows are queries, patches reordered by their set, first seed; each map on its own colour scale.",
    )
    claim = f"Test accuracy (patch association) of solutions with the structure and without it: {said}."
    return Section("Solutions by hand", claim, [table, maps])


def trained_section(config: SolutionsConfig, numbers: dict[str, Any]) -> Section:
    """Where training goes."""
    said = []
    for family, one in numbers.items():
        start, end = one["trained"][-1]["start"], one["trained"][-1]["end"]
        before, after = fmean(start["distance"]), fmean(end["distance"])
        said.append(
            f"{family}: {moved_text(before, after)}, accuracy "
            f"{fmean(end['accuracy']):.3f}, association {fmean(end['association']):.2f}"
        )
    claim = (
        f"Whether training from noise {config.noises[-1]:g} around a solution ends nearer to it or farther from it "
        f"(total variation of the maps), and what it ends with: {'; '.join(said)}."
    )
    tables = [trained_table(config, numbers, index) for index in range(len(config.noises))]
    return Section("Where training goes from near each", claim, tables)


def moved_text(before: float, after: float) -> str:
    """Whether a distance fell or rose, in the digits that are shown."""
    start, end = f"{before:.3f}", f"{after:.3f}"
    if start == end:
        return f"at the same distance ({start})"
    return f"{'nearer' if after < before else 'farther'} ({start} to {end})"


def trained_table(config: SolutionsConfig, numbers: dict[str, Any], index: int) -> Table:
    """Before and after, at one noise."""
    measures, rows = ("distance", "accuracy", "loss", "association"), []
    for family, one in numbers.items():
        start, end = one["trained"][index]["start"], one["trained"][index]["end"]
        rows.append(
            [family, *(f"{fmean(start[name]):.3f} → {mean_std_text(end[name])}" for name in measures)]
        )
    caption = (
        f"{config.steps} plain gradient steps; start → end, {averaged_text('std', config.seeds)}. Distance: to the map "
        f"as built. Start: {config.sharpness:g} of the score differences, a mean |F(X)| of {config.margin:g}."
    )
    title = f"Training from near each solution, noise {config.noises[index]:g} on A"
    return Table(title, ["near", *measures], rows, caption)

"""The page of `posattn run solutions`."""

from typing import Any

from posattn.recipes.solutions.settings import SolutionsConfig
from posattn.runs.page import Gallery, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text

MEASURES = {
    "accuracy": "test accuracy",
    "association": "patch association",
    "exact": "exact rows",
    "mass": "mass",
}


def sections(config: SolutionsConfig, numbers: dict[str, Any], labels: list[str]) -> list[dict[str, Any]]:
    """The two sections of the page; ``labels`` are those of the maps."""
    return to_plain([built_section(numbers, labels), trained_section(numbers, config)])


def built_section(numbers: dict[str, Any], labels: list[str]) -> Section:
    """The solutions as written."""
    accuracy = {family: mean_std(each["built"]["accuracy"])[0] for family, each in numbers.items()}
    association = {family: mean_std(each["built"]["association"])[0] for family, each in numbers.items()}
    said = [f"{family} {accuracy[family]:.3f} ({association[family]:.2f})" for family in numbers]
    claim = f"Generalising does not take the structure. Test accuracy (patch association): {'; '.join(said)}."
    rows = [
        [
            family,
            *(mean_std_text(each["built"][name]) for name in MEASURES),
            f"{mean_std(each['built']['loss'])[0]:.3g}",
        ]
        for family, each in numbers.items()
    ]
    columns = ["solution", *MEASURES.values(), "test loss"]
    table = Table(
        "As built, mean ± std over seeds", columns, rows, "Mass: the share of attention inside the own set."
    )
    maps = Gallery(
        "Attention maps as built and after training",
        "solutions:maps",
        labels,
        caption="Rows are queries, patches reordered by their set, first seed; each map on its own colour scale.",
    )
    return Section("Solutions by hand", claim, [table, maps])


def trained_section(numbers: dict[str, Any], config: SolutionsConfig) -> Section:
    """Where training goes."""
    said = []
    for family, each in numbers.items():
        ends = each["trained"][-1]
        before, after = (mean_std(ends[when]["distance"])[0] for when in ("start", "end"))
        where = "nearer" if after < before else "farther"
        said.append(
            f"{family}: {where} ({before:.3f} to {after:.3f}), accuracy {mean_std(ends['end']['accuracy'])[0]:.3f}, "
            f"association {mean_std(ends['end']['association'])[0]:.2f}"
        )
    claim = (
        f"Whether training from noise {config.noises[-1]:g} around a solution ends nearer to it or farther from it "
        f"(total variation of the maps), and what it ends with: {'; '.join(said)}."
    )
    tables = [trained_table(numbers, config, index) for index in range(len(config.noises))]
    return Section("Where training goes from near each", claim, [*tables])


def trained_table(numbers: dict[str, Any], config: SolutionsConfig, index: int) -> Table:
    """Before and after, at one noise."""
    measures = ("distance", "accuracy", "loss", "association")
    rows = [
        [family, *(f"{mean_std(start[name])[0]:.3f} → {mean_std_text(end[name])}" for name in measures)]
        for family, each in numbers.items()
        for start, end in [(each["trained"][index]["start"], each["trained"][index]["end"])]
    ]
    caption = (
        f"{config.steps} plain gradient steps; start → end, std over {config.seeds} seeds. Distance: to the map "
        f"as built. Start: {config.sharpness:g} of the score differences, a mean |F(X)| of {config.margin:g}."
    )
    return Table(
        f"Training from near each solution, noise {config.noises[index]:g} on A",
        ["near", *measures],
        rows,
        caption,
    )

"""The page of `posattn run pruned-maps`."""

from typing import Any

from posattn.recipes.pruned_maps.settings import PrunedMapsConfig
from posattn.runs.page import Section, Table, mean_lines
from posattn.runs.seeds import mean_std_text


def mass_section(config: PrunedMapsConfig, numbers: dict[str, Any]) -> Section:
    """The mass of the largest entries."""
    middle, layers = len(config.keeps) // 2, numbers["mean"]["mass"]
    masses = ", ".join(f"{line[middle]:.2f} in {name}" for name, line in layers.items())
    figure = mean_lines(
        "Mass of the k largest entries of a row",
        "keep",
        {name: f"mass.{name}" for name in layers},
        x_label="k",
        y_label="mass",
        x_log=True,
        caption=f"Mean over rows and heads; bars: standard deviation over {config.seeds} seeds.",
    )
    claim = f"The {config.keeps[middle]} largest entries of a row held a mass of {masses}."
    return Section("Concentration", claim, [figure], at="pruned")


def accuracy_section(config: PrunedMapsConfig, numbers: dict[str, Any]) -> Section:
    """Accuracy against k."""
    whole = mean_std_text([one["whole"][0] for one in numbers["seeds"]], 1, 100)
    pruned = [
        mean_std_text([one["accuracy"][i] for one in numbers["seeds"]], 1, 100)
        for i in range(len(config.keeps))
    ]
    middle = len(config.keeps) // 2
    claim = (
        f"With every query keeping its k largest entries and nothing retrained, test accuracy was {pruned[middle]} % "
        f"at k = {config.keeps[middle]}, against {whole} % of the whole maps."
    )
    figure = mean_lines(
        "Test accuracy against k",
        "keep",
        {"k largest": "accuracy", "whole maps": "whole"},
        x_label="k, entries kept of a row",
        y_label="test accuracy",
        x_log=True,
        caption=f"On {config.data.data}, mean and standard deviation over {config.seeds} seeds.",
    )
    rows = [[f"{k}", accuracy] for k, accuracy in zip(config.keeps, pruned, strict=True)]
    table = Table("Test accuracy, %", ["k", "accuracy"], rows, f"Mean ± std over {config.seeds} seeds.")
    return Section("Accuracy", claim, [figure, table], at="pruned")

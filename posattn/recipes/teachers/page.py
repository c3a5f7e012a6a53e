"""The page of `posattn run teachers`."""

from typing import Any

from posattn.recipes.teachers.settings import TeachersConfig
from posattn.runs.page import Lines, Maps, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text


def sections(config: TeachersConfig, numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The one section of the page."""
    return to_plain([teachers_section(config, numbers)])


def teachers_section(config: TeachersConfig, numbers: dict[str, Any]) -> Section:
    """A sentence on the teachers."""
    apart = {name: mean_std(each["trained"])[0] for name, each in numbers.items()}
    floor = min(min(each["untrained"]) for each in numbers.values())
    claim = (
        "Attention over positions recovers the true attention of structured teachers that are not the paper's. Here "
        f"the total variation per row fell from at least {floor:.2f} before training to "
        + ", ".join(f"{value:.3f} ({name})" for name, value in apart.items())
        + f", mean over {config.seeds} seeds; 0 is the true attention, 1 is disjoint from it."
    )
    rows = [
        [
            name,
            *(mean_std_text(each[when], 4) for when in ("untrained", "trained")),
            *(f"{mean_std(each[when])[0]:.3g}" for when in ("loss_before", "loss_after")),
        ]
        for name, each in numbers.items()
    ]
    columns = ["teacher", "variation, untrained", "variation, trained", "loss, untrained", "loss, trained"]
    return Section(
        "Recovered attention",
        claim,
        [
            Lines(
                "Total variation per row over training",
                "step",
                {name: f"teachers.{name}.mean" for name in numbers},
                {name: f"teachers.{name}.std" for name in numbers},
                x_label="gradient step",
                y_label="total variation from the true attention",
                caption=f"Mean and standard deviation over {config.seeds} seeds.",
            ),
            Table(
                "Recovered attention and loss",
                columns,
                rows,
                caption="Loss: mean squared error, for the classifier the logistic loss; on the last batch.",
            ),
            *(
                Maps(
                    f"Attention: {name}",
                    f"teachers:map{index}",
                    ["true", "recovered"],
                    x_label="position",
                    y_label="query",
                    caption="The first seed, each frame on its own scale; rows are repeated where queries are fewer.",
                )
                for index, name in enumerate(numbers)
            ),
        ],
    )

"""The page of `posattn run score-init`."""

from typing import Any

from posattn.recipes.score_init.settings import ScoreInitConfig
from posattn.runs.page import Lines, Section, Table
from posattn.runs.seeds import mean_std_text

Numbers = dict[str, Any]


def starts_section(config: ScoreInitConfig, runs: dict[str, list[Numbers]], means: Numbers) -> Section:
    """A table of all starts, and accuracy over training, a figure for each kind of scores."""
    epochs = [f"{epoch} epoch{'s' * (epoch > 1)}" for epoch in config.after]
    first, last = (
        extremes({start: one["mean"]["accuracy"][i] for start, one in means.items()}) for i in (0, -1)
    )
    free = [start for start in means if not start.startswith("relative")] or list(means)
    recall = extremes({start: means[start]["mean"]["neighbour_recall"] for start in free})
    claim = (
        f"Of {len(runs)} starts, '{first[1]}' was ahead after {epochs[0]} and '{first[0]}' last ({first[2]}); after "
        f"{epochs[-1]} it was '{last[1]}' and '{last[0]}' ({last[2]}). Among scores that are free of the grid, "
        f"neighbours are recognised best with '{recall[1]}' and worst with '{recall[0]}' ({recall[2]})."
    )
    table = Table(
        f"Test accuracy on {config.data.data}, and what the learned maps show of the grid",
        ["start", *(f"{name}, %" for name in epochs), "association", "neighbours"],
        [row(start, ones) for start, ones in runs.items()],
        caption=f"Mean ± std over {config.seeds} seeds. Association: the share of a row's largest entries that lie in "
        "the 3 x 3 neighbourhood of the query. Neighbours: the share of a position's grid neighbours among the four "
        "positions whose scores are most like its own; relative scores know the grid.",
    )
    kinds = list(dict.fromkeys(start.split(",")[0] for start in runs))
    figures = [accuracy_lines(kind, [start for start in runs if start.startswith(kind)]) for kind in kinds]
    return Section("Starts", claim, [table, *figures])


def row(start: str, ones: list[Numbers]) -> list[str]:
    """A line of the table."""
    by_epoch = zip(*(one["accuracy"] for one in ones), strict=True)
    return [
        start,
        *(mean_std_text(accuracies, 1, 100) for accuracies in by_epoch),
        *(mean_std_text([one[name] for one in ones], 2) for name in ("association", "neighbour_recall")),
    ]


def extremes(values: dict[str, float]) -> tuple[str, str, str]:
    """The names of the smallest and the largest value, and both in percent."""
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return low, high, f"{100 * values[high]:.1f} against {100 * values[low]:.1f} %"


def accuracy_lines(kind: str, starts: list[str]) -> Lines:
    """Accuracy over training of all starts of one kind of scores."""
    mean, std = (
        {start.split(", ")[1]: f"starts.{start}.{part}.accuracy" for start in starts}
        for part in ("mean", "std")
    )
    return Lines(
        f"Test accuracy over training, {kind}",
        "epoch",
        mean,
        std,
        x_label="epoch",
        y_label="test accuracy",
        x_log=True,
        caption="Mean and standard deviation over the seeds.",
    )

"""How scores start: what it does to accuracy, and to how much structure can be read from the learned attention."""

from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from posattn.recipes.kit.classifiers import build, check_models, fit, load_split, load_splits, train_grid
from posattn.recipes.kit.settings import POSITIONAL
from posattn.recipes.score_init.settings import STARTS, ScoreInitConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, Table, mean_lines, to_plain
from posattn.runs.seeds import averaged_text, collect, mean_std_text, over_seeds
from posattn.structure.association import own_share_of_largest
from posattn.vision.grid import Grid, neighbourhoods
from posattn.vision.jigsaw.layout import neighbour_recall, positive, profile_similarity

Numbers = dict[str, Any]


def run(config: ScoreInitConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Train a model per start and seed."""
    check_models(config, [POSITIONAL])
    check_grid(config)
    cells = product(config.starts, config.all_seeds)
    done = train_grid("score-init", train_start, config, cells, run, progress)
    runs = {start: [done[start, seed] for seed in config.all_seeds] for start in config.starts}
    means = {start: over_seeds(ones) for start, ones in runs.items()}
    return {
        "title": "How scores start",
        "summary": f"Positional ViTs on {config.data.data} that differ in how their scores start.",
        "epoch": config.after,
        "starts": means,
        "runs": runs,
        "page": to_plain([starts_section(config, runs, means)]),
    }


def check_grid(config: ScoreInitConfig) -> None:
    """Raise ValueError, before anything is trained, for a single patch, which has no neighbours."""
    model: Any = build(config.size, POSITIONAL, config.seed, load_split(config, "test"))
    if model.patch_embed.num_patches < 2:
        raise ValueError(f"patch_size must leave at least two patches, got {config.size.patch_size}: 1 x 1")


def train_start(config: ScoreInitConfig, start: str, seed: int, folder: Path) -> Numbers:
    """Train one model: its test accuracy after the chosen epochs, and measures of the grid in its maps.

    ``association`` with the 3 x 3 neighbourhoods; ``neighbour_recall``, the share of grid neighbours among the
    positions of most similar scores.
    """
    unit = f"score-init-{start.replace(',', '').replace(' = ', '').replace(' ', '-')}-{seed}"
    train_set, test_set = load_splits(config)
    model: Any = build(config.size, POSITIONAL, seed, test_set, **STARTS[start])
    done = fit(model, train_set, test_set, config.train, seed, folder, unit, after=config.after)
    height, width = grid = model.patch_embed.grid_size
    maps = positive(model.eval().attention_maps().detach())
    positions = torch.arange(height * width)
    return {
        "accuracy": done["accuracy"],
        "association": float(own_share_of_largest(maps, neighbourhoods(Grid(height, width))).mean()),
        "neighbour_recall": neighbour_recall(profile_similarity(maps), positions, grid),
    }


def starts_section(config: ScoreInitConfig, runs: dict[str, list[Numbers]], means: Numbers) -> Section:
    """A table of all starts, and accuracy over training, a figure for each kind of scores."""
    epochs = [f"{epoch} epoch{'s' * (epoch > 1)}" for epoch in config.after]
    found = {start: collect(ones) for start, ones in runs.items()}
    rows = [
        [start, *(mean_std_text(values, 1, 100) for values in one["accuracy"])]
        + [mean_std_text(one[name], 2) for name in ("association", "neighbour_recall")]
        for start, one in found.items()
    ]
    table = Table(
        f"Test accuracy on {config.data.data}, and what the learned maps show of the grid",
        ["start", *(f"{name}, %" for name in epochs), "association", "neighbours"],
        rows,
        caption=f"{averaged_text('Mean ± std', config.seeds)}. Association: the share of a row's largest entries that "
        "lie in the 3 x 3 neighbourhood of the query. Neighbours: the share of a position's grid neighbours among the "
        "four positions whose scores are most like its own; relative scores know the grid.",
    )
    kinds = list(dict.fromkeys(start.split(",")[0] for start in runs))
    figures = [
        mean_lines(
            f"Test accuracy over training, {kind}",
            "epoch",
            {start.split(", ")[1]: f"starts.{start}.*.accuracy" for start in runs if start.startswith(kind)},
            "epoch",
            "test accuracy",
            x_log=True,
        )
        for kind in kinds
    ]
    return Section("Starts", starts_claim(epochs, means), [table, *figures])


def starts_claim(epochs: list[str], means: Numbers) -> str:
    """The best and the worst start after the first and the last of the epochs, and in recognising neighbours."""
    accuracies = [
        f"after {epochs[i]} {extremes({start: one['mean']['accuracy'][i] for start, one in means.items()})}"
        for i in sorted({0, len(epochs) - 1})
    ]
    claim = f"Test accuracy: {'; '.join(accuracies)}."
    recalls = {start: one["mean"]["neighbour_recall"] for start, one in means.items()}
    if free := {start: recall for start, recall in recalls.items() if not start.startswith("relative")}:
        claim += f" Neighbours recognised by scores that are free of the grid: {extremes(free)}."
    return claim


def extremes(values: dict[str, float]) -> str:
    """The best and the worst in percent, all of those that are equal; without ranks where there is one, or all are."""
    percents = {name: f"{100 * value:.1f}" for name, value in values.items()}
    worst, best = (f"{100 * value:.1f}" for value in (min(values.values()), max(values.values())))
    low, high = (
        " and ".join(repr(name) for name, percent in percents.items() if percent == end)
        for end in (worst, best)
    )
    if worst == best:
        return f"{best} % with {'every start' if len(values) > 1 else low}"
    return f"best with {high} and worst with {low} ({best} against {worst} %)"

"""How scores start: what it does to accuracy, and to how much structure can be read from the learned attention."""

from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from posattn.recipes.kit.classifiers import build, fit, load_split
from posattn.recipes.kit.settings import POSITIONAL, ImagesConfig
from posattn.recipes.score_init.settings import STARTS, ScoreInitConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.structure.association import own_share_of_largest
from posattn.vision.grid import Tokens, neighbourhoods
from posattn.vision.jigsaw.layout import neighbour_recall, profile_similarity
from posattn.vision.training.logs import follow_trainings

TINY = 1e-30  # below it an entry of a map may be 0 in float32
Numbers = dict[str, Any]


def train_start(config: ScoreInitConfig, start: str, seed: int, folder: Path) -> list[float]:
    """Train one model; its test accuracy after the epochs asked for."""
    images, unit = config.images, unit_name(start, seed)
    test_set = load_split(images, "test")
    model = build(images, POSITIONAL, seed, test_set, **STARTS[start])
    return fit(model, images, POSITIONAL, seed, folder, unit, test_set, config.after)["accuracy"]


def unit_name(start: str, seed: int) -> str:
    """The file of a trained model."""
    return f"score-init-{start.replace(',', '').replace(' = ', '').replace(' ', '-')}-{seed}"


def structure_of(images: ImagesConfig, start: str, seed: int, run: RunFolder) -> dict[str, float]:
    """What the maps of a trained model show of the grid.

    Association with the 3 x 3 neighbourhoods, and the share of grid neighbours among the positions of most similar
    scores.
    """
    test_set = load_split(images, "test")
    model: Any = build(images, POSITIONAL, seed, test_set, **STARTS[start])
    model.load_state_dict(run.load_tensors(unit_name(start, seed)))
    height, width = grid = model.patch_embed.grid_size
    maps = model.eval().attention_maps().detach().double().clamp(min=TINY)
    own = neighbourhoods(Tokens(0, height, width, 1.0, 1.0))
    places = torch.arange(height * width)
    return {
        "association": float(own_share_of_largest(maps, own).mean()),
        "neighbour_recall": neighbour_recall(profile_similarity(maps), places, grid),
    }


def run(config: ScoreInitConfig, run: RunFolder, progress: Progress) -> Numbers:
    """A model a start and seed, each a part of a sweep."""
    build(config.images, POSITIONAL, 0, load_split(config.images, "test"))
    seeds = range(config.seed, config.seed + config.images.seeds)
    settings = {
        f"{start}/{seed}": (config, start, seed, run.path) for seed in seeds for start in config.starts
    }
    with follow_trainings(run, progress, config.images.train):
        done = sweep("score-init", settings, train_start, run, progress)
    runs = {
        start: [
            {"accuracy": done[f"{start}/{seed}"], **structure_of(config.images, start, seed, run)}
            for seed in seeds
        ]
        for start in config.starts
    }
    return {
        "title": "How scores start",
        "summary": f"Positional ViTs on {config.images.data} that differ in how their scores start.",
        "starts": gather(config, runs),
        "runs": runs,
        "page": to_plain([section_of(config, runs)]),
    }


def gather(config: ScoreInitConfig, runs: dict[str, list[Numbers]]) -> Numbers:
    """Mean and spread over the seeds."""
    by_epoch = {
        start: [mean_std(at) for at in zip(*(one["accuracy"] for one in ones), strict=True)]
        for start, ones in runs.items()
    }
    return {
        "epoch": list(config.after),
        "accuracy": {start: [mean for mean, _ in line] for start, line in by_epoch.items()},
        "accuracy_std": {start: [std for _, std in line] for start, line in by_epoch.items()},
    }


def section_of(config: ScoreInitConfig, runs: dict[str, list[Numbers]]) -> Section:
    """A table of all starts, and accuracy over training, a figure for each kind of scores."""
    after = [f"{epoch} epoch{'s' * (epoch > 1)}" for epoch in config.after]
    first, last = (
        extremes({start: of(ones, "accuracy", at) for start, ones in runs.items()}) for at in (0, -1)
    )
    free = [start for start in runs if not start.startswith("relative")] or list(runs)
    read = extremes({start: of(runs[start], "neighbour_recall") for start in free})
    claim = (
        f"Of {len(runs)} starts, '{first[1]}' was ahead after {after[0]} and '{first[0]}' last ({first[2]}); after "
        f"{after[-1]} it was '{last[1]}' and '{last[0]}' ({last[2]}). Grid neighbours are told from the learned scores "
        f"that are free best with '{read[1]}' and worst with '{read[0]}' ({read[2]})."
    )
    rows = [
        [
            start,
            *(mean_std_text(at, 1, 100) for at in zip(*(one["accuracy"] for one in ones), strict=True)),
            *(mean_std_text([one[name] for one in ones], 2) for name in ("association", "neighbour_recall")),
        ]
        for start, ones in runs.items()
    ]
    kinds = list(dict.fromkeys(start.split(",")[0] for start in runs))
    return Section(
        "Starts",
        claim,
        [
            Table(
                f"Test accuracy on {config.images.data}, and what the learned maps show of the grid",
                ["start", *(f"{name}, %" for name in after), "association", "neighbours"],
                rows,
                caption=f"Mean ± std over {config.images.seeds} seeds. Association: the share of a row's largest "
                "entries that lie in the 3 x 3 neighbourhood of the query. Neighbours: the share of a position's grid "
                "neighbours among the four positions whose scores are most like its own; relative scores know the "
                "grid.",
            ),
            *(accuracy_lines(kind, [start for start in runs if start.startswith(kind)]) for kind in kinds),
        ],
    )


def of(ones: list[Numbers], name: str, at: int | None = None) -> float:
    """The mean over the seeds of a number, or of one of several."""
    return mean_std([one[name] if at is None else one[name][at] for one in ones])[0]


def extremes(values: dict[str, float]) -> tuple[str, str, str]:
    """The names of the least and the largest value, and both in percent."""
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return low, high, f"{100 * values[high]:.1f} against {100 * values[low]:.1f} %"


def accuracy_lines(kind: str, starts: list[str]) -> Lines:
    """Accuracy over training of all starts of one kind of scores."""
    return Lines(
        f"Test accuracy over training, {kind}",
        "starts.epoch",
        {start.split(", ")[1]: f"starts.accuracy.{start}" for start in starts},
        {start.split(", ")[1]: f"starts.accuracy_std.{start}" for start in starts},
        x_label="epoch",
        y_label="test accuracy",
        x_log=True,
        caption="Mean and standard deviation over the seeds.",
    )

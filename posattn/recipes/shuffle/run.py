"""Structure without locality built in: images whose patches, or pixels, are moved by one fixed permutation."""

from dataclasses import replace
from typing import Any

from rich.progress import Progress

from posattn.recipes.kit.classifiers import check_images, train_one, weights_name
from posattn.recipes.shuffle.settings import ShuffleConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, Table, to_plain
from posattn.runs.seeds import mean_std_text
from posattn.runs.sweep import sweep
from posattn.vision.training.logs import follow_trainings

ARRANGEMENTS = {"plain": "as they are", "patches": "patches shuffled", "pixels": "pixels shuffled"}
Numbers = dict[str, Any]


def run(config: ShuffleConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Every model in every arrangement with every seed, each a part of a sweep."""
    sets = {kind: replace(config.images, arrangement=kind) for kind in ARRANGEMENTS}  # type: ignore[arg-type]
    for images in sets.values():
        check_images(images)
    last = [config.images.train.epochs]
    settings = {
        f"{kind}/{name}/{seed}": (images, name, seed, run.path, f"{kind}-{weights_name(name, seed)}", last)
        for seed in range(config.seed, config.seed + config.images.seeds)
        for kind, images in sets.items()
        for name in config.images.models
    }
    with follow_trainings(run, progress, config.images.train):
        done = sweep("shuffle", settings, train_one, run, progress)
    final = {
        kind: {name: accuracies(done, f"{kind}/{name}/") for name in config.images.models}
        for kind in ARRANGEMENTS
    }
    return {
        "title": "Structure without locality built in",
        "summary": f"{config.images.data}, its patches or its pixels moved by one fixed random permutation, "
        "in training and testing alike.",
        "shuffle": {"final": final},
        "page": to_plain([section_of(config, final)]),
    }


def accuracies(done: dict[str, Numbers], prefix: str) -> list[float]:
    """The final test accuracy of every seed."""
    return [one["accuracy"][-1] for key, one in done.items() if key.startswith(prefix)]


def section_of(config: ShuffleConfig, final: Numbers) -> Section:
    """What each model loses."""
    models = config.images.models
    lost = {name: paired(final["plain"][name], final["patches"][name]) for name in models}
    said = ", ".join(f"{name} {mean_std_text(lost[name], 1, 100)}" for name in models)
    rows = [[name, *(mean_std_text(final[kind][name], 1, 100) for kind in ARRANGEMENTS)] for name in models]
    count = config.images.seeds
    return Section(
        "Shuffled images",
        "A model with positions of its own has no use for the order that patches come in; one with locality built in "
        f"has. Points of test accuracy lost when the patches are shuffled: {said}.",
        [
            Table(
                f"Test accuracy on {config.images.data}, %",
                ["model", *ARRANGEMENTS.values()],
                rows,
                caption=f"Mean ± std over {count} seeds, one permutation for all.",
            ),
        ],
    )


def paired(before: list[float], after: list[float]) -> list[float]:
    """What was lost, seed by seed."""
    return [a - b for a, b in zip(before, after, strict=True)]

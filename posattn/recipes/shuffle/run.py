"""Structure without locality built in: images whose patches, or pixels, are moved by one fixed permutation."""

from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import Progress

from posattn.recipes.kit import classifiers
from posattn.recipes.shuffle.settings import ShuffleConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, mean_table, to_plain
from posattn.runs.seeds import averaged_text, mean_std_text
from posattn.vision.data.images import ImageSet

PLAIN, PATCHES, PIXELS = "plain", "patches", "pixels"
ARRANGEMENTS = {PLAIN: "as they are", PATCHES: "patches shuffled", PIXELS: "pixels shuffled"}
Accuracies = dict[str, dict[str, list[float]]]  # of every seed, by arrangement and model


def run(config: ShuffleConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train every model on every arrangement with every seed."""
    classifiers.check_models(config, config.models)
    arranged(config, "test", PATCHES)
    cells = product(ARRANGEMENTS, config.models, config.all_seeds)
    done = classifiers.train_grid("shuffle", train_arranged, config, cells, run, progress)
    final = {
        kind: {name: [done[kind, name, seed] for seed in config.all_seeds] for name in config.models}
        for kind in ARRANGEMENTS
    }
    return {
        "title": "Structure without locality built in",
        "summary": f"{config.data.data}, its patches or its pixels moved by one fixed random permutation, "
        "in training and testing alike.",
        "shuffle": {"final": final},
        "page": to_plain([shuffle_section(config, final)]),
    }


def arranged(config: ShuffleConfig, split: str, kind: str) -> ImageSet:
    """The images of a split in an arrangement."""
    images = classifiers.load_split(config, split)
    if kind == PLAIN:
        return images
    size = config.size.patch_size if kind == PATCHES else 1
    permutation = classifiers.patch_permutation(images, size, config.shuffle_seed)
    return classifiers.rearranged(images, size, permutation)


def train_arranged(config: ShuffleConfig, kind: str, name: str, seed: int, folder: Path) -> float:
    """Train one model on one arrangement; its final test accuracy."""
    train_set, test_set = (arranged(config, split, kind) for split in ("train", "test"))
    model = classifiers.build(config.size, name, seed, test_set)
    unit, after = f"{kind}-{classifiers.weights_name(name, seed)}", [config.train.epochs]
    done = classifiers.fit(model, train_set, test_set, config.train, seed, folder, unit, after=after)
    return done["accuracy"][-1]


def shuffle_section(config: ShuffleConfig, final: Accuracies) -> Section:
    """The test accuracy of each model on each arrangement, and what shuffled patches cost, seed by seed."""
    losses = {
        name: [a - b for a, b in zip(final[PLAIN][name], final[PATCHES][name], strict=True)]
        for name in config.models
    }
    listed = ", ".join(f"{name} {mean_std_text(loss, 1, 100)}" for name, loss in losses.items())
    claim = (
        f"Points of test accuracy lost when the patches are shuffled: {listed}. A model without built-in locality "
        "should lose nothing, one with locality should lose some."
    )
    table = mean_table(
        f"Test accuracy on {config.data.data}, %",
        ["model", *ARRANGEMENTS.values()],
        {name: [final[kind][name] for kind in ARRANGEMENTS] for name in config.models},
        digits=1,
        factor=100,
        caption=f"{averaged_text('Mean ± std', config.seeds)}, one permutation for all.",
    )
    return Section("Shuffled images", claim, [table])

"""How concentrated learned positional attention is, and what is lost when only its largest entries are kept."""

from pathlib import Path
from typing import Any

from rich.progress import Progress

from posattn.recipes.kit.classifiers import build, check_images, load_split, load_trained, train_one
from posattn.recipes.kit.settings import POSITIONAL
from posattn.recipes.pruned_maps.settings import PrunedMapsConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.vision.models.concentration import top_mass
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.training.logs import follow_trainings
from posattn.vision.training.loop import evaluate


def prune_one(config: PrunedMapsConfig, seed: int, folder: Path) -> dict[str, Any]:
    """Train a positional ViT; the mass of the top k by layer, and test accuracy with only them kept."""
    images = config.images
    train_one(images, POSITIONAL, seed, folder)
    test_set = load_split(images, "test")
    model = load_trained(images, POSITIONAL, seed, test_set, RunFolder(folder))
    return {
        "mass": top_mass(model.attention_maps().detach(), config.keeps).tolist(),
        "accuracy": [evaluate(freeze_attention(model, keep=k), test_set) for k in config.keeps],
        "whole": evaluate(model, test_set),
    }


def run(config: PrunedMapsConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """A model a seed, each a part of a sweep."""
    check_images(config.images)
    check_keeps(config)
    settings = {
        f"seed={config.seed + i}": (config, config.seed + i, run.path) for i in range(config.images.seeds)
    }
    with follow_trainings(run, progress, config.images.train):
        seeds = list(sweep("pruned-maps", settings, prune_one, run, progress).values())
    numbers = gather(config, seeds)
    return {
        "title": "Pruned attention maps",
        "summary": f"Positional ViTs trained on {config.images.data}; every query keeps its k largest entries.",
        "pruned": numbers,
        "page": to_plain([mass_section(config, numbers), accuracy_section(config, numbers)]),
    }


def check_keeps(config: PrunedMapsConfig) -> None:
    """ValueError, before anything is trained, where a k is not in 1..N."""
    test_set = load_split(config.images, "test")
    model: Any = build(config.images, POSITIONAL, 0, test_set)
    top_mass(model.attention_maps(), config.keeps)


def gather(config: PrunedMapsConfig, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, by layer and k."""
    layers = range(config.images.depth)
    by_layer = {
        f"layer {i + 1}": [mean_std(at) for at in zip(*(one["mass"][i] for one in seeds), strict=True)]
        for i in layers
    }
    accuracy = [mean_std(at) for at in zip(*(one["accuracy"] for one in seeds), strict=True)]
    return {
        "seeds": seeds,
        "keep": list(config.keeps),
        "mass": {name: [mean for mean, _ in line] for name, line in by_layer.items()},
        "mass_std": {name: [std for _, std in line] for name, line in by_layer.items()},
        "accuracy": [mean for mean, _ in accuracy],
        "accuracy_std": [std for _, std in accuracy],
        "whole": [mean_std([one["whole"] for one in seeds])[0]] * len(config.keeps),
    }


def mass_section(config: PrunedMapsConfig, numbers: dict[str, Any]) -> Section:
    """The mass of the largest entries."""
    middle = len(config.keeps) // 2
    masses = ", ".join(f"{line[middle]:.2f} in {name}" for name, line in numbers["mass"].items())
    return Section(
        "Concentration",
        f"The {config.keeps[middle]} largest entries of a row held a mass of {masses}.",
        [
            Lines(
                "Mass of the k largest entries of a row",
                "pruned.keep",
                {name: f"pruned.mass.{name}" for name in numbers["mass"]},
                {name: f"pruned.mass_std.{name}" for name in numbers["mass"]},
                x_label="k",
                y_label="mass",
                x_log=True,
                caption="Mean over rows and heads; bars: standard deviation over "
                f"{len(numbers['seeds'])} seeds.",
            )
        ],
    )


def accuracy_section(config: PrunedMapsConfig, numbers: dict[str, Any]) -> Section:
    """Accuracy against k."""
    whole = mean_std_text([one["whole"] for one in numbers["seeds"]], 1, 100)
    rows = [
        [f"{k}", mean_std_text([one["accuracy"][i] for one in numbers["seeds"]], 1, 100)]
        for i, k in enumerate(config.keeps)
    ]
    middle = len(config.keeps) // 2
    claim = (
        f"With every query keeping its k largest entries and nothing retrained, test accuracy was {rows[middle][1]} % "
        f"at k = {rows[middle][0]}, against {whole} % of the whole maps."
    )
    return Section(
        "Accuracy",
        claim,
        [
            Lines(
                "Test accuracy against k",
                "pruned.keep",
                {"k largest": "pruned.accuracy", "whole maps": "pruned.whole"},
                {"k largest": "pruned.accuracy_std"},
                x_label="k, entries kept of a row",
                y_label="test accuracy",
                x_log=True,
                caption=f"On {config.images.data}, mean and standard deviation over {len(numbers['seeds'])} seeds.",
            ),
            Table(
                "Test accuracy, %", ["k", "accuracy"], rows, f"Mean ± std over {len(numbers['seeds'])} seeds."
            ),
        ],
    )

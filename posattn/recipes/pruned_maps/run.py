"""How concentrated learned positional attention is, and what is lost when only its largest entries are kept."""

from pathlib import Path
from typing import Any

from rich.progress import Progress

from posattn.recipes.kit.classifiers import build, load_split, load_trained, train_grid, train_one
from posattn.recipes.kit.settings import POSITIONAL
from posattn.recipes.pruned_maps.settings import PrunedMapsConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, mean_lines, mean_table, to_plain
from posattn.runs.seeds import averaged_text, collect, mean_std_text, over_seeds
from posattn.vision.models.concentration import top_mass
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.training.loop import evaluate


def run(config: PrunedMapsConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train and prune a model per seed."""
    model: Any = build(config.size, POSITIONAL, config.seed, load_split(config, "test"))
    top_mass(model.attention_maps(), config.keeps)  # a k above N is an error before anything is trained
    done = train_grid("pruned-maps", prune_one, config, zip(config.all_seeds), run, progress)
    seeds = list(done.values())
    numbers = {"seeds": seeds, "keep": config.keeps, **over_seeds(seeds)}
    return {
        "title": "Pruned attention maps",
        "summary": f"Positional ViTs trained on {config.data.data}; every query keeps its k largest entries.",
        "pruned": numbers,
        "page": to_plain([mass_section(config, numbers), accuracy_section(config, numbers)]),
    }


def prune_one(config: PrunedMapsConfig, seed: int, folder: Path) -> dict[str, Any]:
    """Train a positional ViT: the mass of the k largest entries by layer, and test accuracy with only them kept."""
    train_one(config, POSITIONAL, seed, folder)
    test_set = load_split(config, "test")
    model = load_trained(config.size, POSITIONAL, seed, test_set, RunFolder(folder))
    masses = top_mass(model.attention_maps().detach(), config.keeps).tolist()
    return {
        "mass": {f"layer {i}": mass for i, mass in enumerate(masses, 1)},
        "accuracy": [evaluate(freeze_attention(model, keep=k), test_set) for k in config.keeps],
        "whole": [evaluate(model, test_set)] * len(config.keeps),
    }


def mass_section(config: PrunedMapsConfig, numbers: dict[str, Any]) -> Section:
    """The mass of the largest entries."""
    middle, layers = len(config.keeps) // 2, numbers["mean"]["mass"]
    masses = ", ".join(f"{line[middle]:.2f} in {name}" for name, line in layers.items())
    figure = mean_lines(
        "Mass of the k largest entries of a row",
        "keep",
        {name: f"*.mass.{name}" for name in layers},
        "k",
        "mass",
        x_log=True,
        caption=f"Mean over rows and heads; {averaged_text('standard deviation', config.seeds)}.",
    )
    largest = "largest entry" if config.keeps[middle] == 1 else f"{config.keeps[middle]} largest entries"
    claim = f"The {largest} of a row held a mass of {masses}."
    return Section("Concentration", claim, [figure], at="pruned")


def accuracy_section(config: PrunedMapsConfig, numbers: dict[str, Any]) -> Section:
    """Accuracy against k."""
    middle, found = len(config.keeps) // 2, collect(numbers["seeds"])
    pruned, whole = (mean_std_text(found[name][middle], 1, 100) for name in ("accuracy", "whole"))
    claim = (
        f"With every query keeping its k largest entries and nothing retrained, test accuracy was {pruned} % "
        f"at k = {config.keeps[middle]}, against {whole} % of the whole maps."
    )
    figure = mean_lines(
        "Test accuracy against k",
        "keep",
        {"k largest": "*.accuracy", "whole maps": "*.whole"},
        "k, entries kept of a row",
        "test accuracy",
        x_log=True,
        caption=f"On {config.data.data}, {averaged_text('mean and standard deviation', config.seeds)}.",
    )
    rows = {f"{k}": [values] for k, values in zip(config.keeps, found["accuracy"], strict=True)}
    caption = f"{averaged_text('Mean ± std', config.seeds)}."
    table = mean_table("Test accuracy, %", ["k", "accuracy"], rows, 1, 100, caption)
    return Section("Accuracy", claim, [figure, table], at="pruned")

"""The layout of images, recovered from the positional scores of a model that only saw their patches shuffled."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Generator, Tensor

from posattn.recipes.jigsaw.page import PLAIN, SHUFFLED, puzzle_section, scores_section
from posattn.recipes.jigsaw.puzzle import patch_brightness, piece_together, puzzle_tensors
from posattn.recipes.jigsaw.settings import JigsawConfig
from posattn.recipes.kit.classifiers import build, fit, load_split, patch_permutation, shuffled, train_sweep
from posattn.recipes.kit.settings import TABLE
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.vision.data.images import to_float
from posattn.vision.jigsaw.assembly import recover_layout
from posattn.vision.jigsaw.layout import (
    neighbour_pairs_recovered,
    neighbour_recall,
    partial_correlation,
    profile_similarity,
)

# position is known to the scores alone, and they start near zero
OPTIONS = {"pos_embed": "none", "score_std": 0.02}
Numbers = dict[str, Any]


def run(config: JigsawConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Train every seed, then put each one's positions together."""
    test_set = load_split(config, "test")
    model: Any = build(config.size, TABLE, config.seed, test_set, **OPTIONS)
    grid = model.patch_embed.grid_size
    trainings = {f"{SHUFFLED}/{seed}": (SHUFFLED, seed) for seed in config.all_seeds}
    trainings |= {f"{PLAIN}/{s}": (PLAIN, s) for s in range(config.seed, config.seed + config.plain_seeds)}
    cells = {key: (config, *training, run.path) for key, training in trainings.items()}
    trained = train_sweep("jigsaw", cells, train_maps, config.train, run, progress)
    solved = {
        key: {"accuracy": trained[key]["accuracy"]}
        | run.unit(f"solve/{key}", partial(solve, config, maps_name(*training), grid, run))
        for key, training in trainings.items()
    }
    baselines = run.unit("baselines", partial(solve_untrained, config, grid))
    layout = torch.tensor(solved[f"{SHUFFLED}/{config.seed}"]["layout"])
    kept = run.load_tensors(maps_name(SHUFFLED, config.seed))
    shown = test_set.images[: config.pictures]
    pictures, similarity = puzzle_tensors(
        kept["maps"], kept["permutation"], layout, config.size.patch_size, shown
    )
    run.save_tensors("jigsaw", {"pictures": pictures, "similarity": similarity})
    numbers = {"seeds": solved, "baselines": baselines, "grid": list(grid)}
    return {
        "title": "The jigsaw",
        "summary": "Where the patches of an image belong, from positional scores learned on shuffled patches alone.",
        "jigsaw": numbers,
        "timing": {"training_seconds": {key: one["seconds"] for key, one in trained.items()}},
        "page": to_plain([puzzle_section(config, numbers), scores_section(config, numbers)]),
    }


def train_maps(config: JigsawConfig, order: str, seed: int, folder: Path) -> Numbers:
    """Train one model and save its maps: test accuracy, and the seconds that training took."""
    train_set, test_set = (load_split(config, split) for split in ("train", "test"))
    permutation = patch_permutation(test_set, config.size.patch_size, seed)
    if order == SHUFFLED:
        train_set, test_set = (
            shuffled(images, config.size.patch_size, seed) for images in (train_set, test_set)
        )
    else:
        permutation = torch.arange(len(permutation))
    model: Any = build(config.size, TABLE, seed, test_set, **OPTIONS)
    epochs, unit = config.train.epochs, f"jigsaw-{order}-{seed}"
    done = fit(model, train_set, test_set, config.train, seed, folder, unit, after=[epochs])
    kept = {"maps": model.attention_maps().detach(), "permutation": permutation}
    RunFolder(folder).save_tensors(maps_name(order, seed), kept)
    return {"accuracy": done["accuracy"][-1], "seconds": done["seconds"]}


def maps_name(order: str, seed: int) -> str:
    """The file of a trained model's maps."""
    return f"maps-{order}-{seed}"


def solve(config: JigsawConfig, name: str, grid: tuple[int, int], run: RunFolder) -> Numbers:
    """The numbers of one trained model."""
    kept = run.load_tensors(name)
    return piece_together(kept["maps"], kept["permutation"], grid, config.tile, config.rounds)


def solve_untrained(config: JigsawConfig, grid: tuple[int, int]) -> dict[str, Numbers]:
    """The same puzzle solved from the training images themselves, and from scores that are noise."""
    pixels = patch_brightness(to_float(load_split(config, "train").images), config.size.patch_size)
    count = grid[0] * grid[1]
    draws = torch.randn(config.seeds, 8, count, count, generator=Generator().manual_seed(config.seed))
    similarities = {
        "images": [partial_correlation(pixels.double())],
        "noise": [profile_similarity(draw) for draw in draws],
    }
    return {name: solved_from(ones, grid, config.rounds) for name, ones in similarities.items()}


def solved_from(
    similarities: list[Float[Tensor, "N N"]], grid: tuple[int, int], rounds: int
) -> dict[str, float]:
    """Mean share of pairs found and mean recall, for positions in true order."""
    truth = torch.arange(grid[0] * grid[1])
    layouts = [recover_layout(one, grid, rounds=rounds) for one in similarities]
    return {
        "pairs": fmean(neighbour_pairs_recovered(layout, truth, grid) for layout in layouts),
        "recall": fmean(neighbour_recall(one, truth, grid) for one in similarities),
    }

"""The layout of images, recovered from the positional scores of a model that only saw their patches shuffled."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Generator, Tensor

from posattn import checks
from posattn.recipes.jigsaw.page import PLAIN, SHUFFLED, puzzle_section, scores_section
from posattn.recipes.jigsaw.puzzle import (
    brightness_similarity,
    patch_brightness,
    piece_together,
    puzzle_tensors,
)
from posattn.recipes.jigsaw.settings import JigsawConfig
from posattn.recipes.kit import classifiers
from posattn.recipes.kit.settings import TABLE
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.vision.data.images import to_float
from posattn.vision.jigsaw.assembly import recover_layout
from posattn.vision.jigsaw.layout import (
    neighbour_pairs_recovered,
    neighbour_recall,
    profile_similarity,
)

# position is known to the scores alone, and they start near zero
OPTIONS = {"pos_embed": "none", "score_std": 0.02}
Numbers = dict[str, Any]


def run(config: JigsawConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Train every seed and put its positions together, then solve the puzzle without training."""
    test_set = classifiers.load_split(config, "test")
    model: Any = classifiers.build(config.size, TABLE, config.seed, test_set, **OPTIONS)
    grid = model.patch_embed.grid_size
    check_grid(config, grid)
    cells = [(SHUFFLED, seed) for seed in config.all_seeds]
    cells += [(PLAIN, config.seed + i) for i in range(config.plain_seeds)]
    done = classifiers.train_grid("jigsaw", train_and_solve, config, cells, run, progress)
    solved = {f"{order}/{seed}": one for (order, seed), one in done.items()}
    seconds = {key: one.pop("seconds") for key, one in solved.items()}
    first = run.load_tensors(maps_name(SHUFFLED, config.seed))
    layout = torch.tensor(solved[f"{SHUFFLED}/{config.seed}"]["layout"])
    shown = test_set.images[: config.pictures]
    run.save_tensors(
        "jigsaw", puzzle_tensors(**first, layout=layout, size=config.size.patch_size, images=shown)
    )
    baselines = run.unit(f"baselines, {config.seeds} seeds", partial(solve_untrained, config, grid))
    numbers = {"seeds": solved, "baselines": baselines, "grid": list(grid)}
    return {
        "title": "The jigsaw",
        "summary": "Where the patches of an image belong, from positional scores learned on shuffled patches alone.",
        "jigsaw": numbers,
        "timing": {"training_seconds": seconds},
        "page": to_plain([puzzle_section(config, numbers), scores_section(config, numbers)]),
    }


def check_grid(config: JigsawConfig, grid: tuple[int, int]) -> None:
    """Raise ValueError, before anything is trained, for grids without neighbours or that tiles do not cover."""
    rows, columns = grid
    if rows * columns < 3:
        raise ValueError(
            f"patch_size must leave at least three patches, got {config.size.patch_size}: {rows} x {columns}"
        )
    checks.divides("tile", config.tile, "rows of patches", rows)
    checks.divides("tile", config.tile, "columns of patches", columns)


def train_and_solve(config: JigsawConfig, order: str, seed: int, folder: Path) -> Numbers:
    """Train one model, save its maps and put its positions together."""
    train_set, test_set = classifiers.load_splits(config)
    size, unit = config.size.patch_size, f"jigsaw-{order}-{seed}"
    permutation = classifiers.patch_permutation(test_set, size, seed)
    if order == PLAIN:
        permutation = permutation.sort().values
    train_set, test_set = (
        classifiers.rearranged(images, size, permutation) for images in (train_set, test_set)
    )
    model: Any = classifiers.build(config.size, TABLE, seed, test_set, **OPTIONS)
    done = classifiers.fit(
        model, train_set, test_set, config.train, seed, folder, unit, after=[config.train.epochs]
    )
    kept = {"maps": model.attention_maps().detach(), "permutation": permutation}
    RunFolder(folder).save_tensors(maps_name(order, seed), kept)
    return {
        "accuracy": done["accuracy"][-1],
        "seconds": done["seconds"],
        **piece_together(**kept, grid=model.patch_embed.grid_size, tile=config.tile, rounds=config.rounds),
    }


def maps_name(order: str, seed: int) -> str:
    """The file of a trained model's maps."""
    return f"maps-{order}-{seed}"


def solve_untrained(config: JigsawConfig, grid: tuple[int, int]) -> dict[str, Numbers]:
    """The same puzzle solved from the training images themselves, and from scores that are noise."""
    pixels = patch_brightness(
        to_float(classifiers.load_split(config, "train").images), config.size.patch_size
    )
    count = grid[0] * grid[1]
    draws = torch.randn(config.seeds, 8, count, count, generator=Generator().manual_seed(config.seed))
    similarities = {
        "images": [brightness_similarity(pixels.double())],
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

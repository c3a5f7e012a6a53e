"""The layout of images, recovered from the positional scores of a model that only saw their patches shuffled."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from rich.progress import Progress
from torch import Generator, Tensor

from posattn.recipes.jigsaw.page import PLAIN, SHUFFLED, puzzle_section, scores_section
from posattn.recipes.jigsaw.settings import MODEL, JigsawConfig
from posattn.recipes.kit.classifiers import build, fit, load_split, permutation
from posattn.recipes.kit.settings import ImagesConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.sweep import sweep
from posattn.shapes import Maps
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.vision.data.images import shuffle_patches, to_float
from posattn.vision.jigsaw.assembly import assigned_layout, recover_layout
from posattn.vision.jigsaw.layout import (
    align,
    neighbour_pairs_recovered,
    neighbour_recall,
    partial_correlation,
    profile_similarity,
)
from posattn.vision.training.logs import follow_trainings

OPTIONS = {
    "pos_embed": "none",
    "score_std": 0.02,
}  # so that place is in the scores alone, and they start near zero


def arranged(config: JigsawConfig, order: str, seed: int) -> ImagesConfig:
    """The images of a training: as they are, or shuffled by the seed's permutation."""
    if order == PLAIN:
        return config.images
    return replace(config.images, arrangement="patches", shuffle_seed=seed)


def train_maps(config: JigsawConfig, order: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one model and keep its maps: test accuracy, and the seconds that training took."""
    images, unit = arranged(config, order, seed), f"jigsaw-{order}-{seed}"
    test_set = load_split(images, "test")
    model: Any = build(images, MODEL, seed, test_set, **OPTIONS)
    done = fit(model, images, MODEL, seed, folder, unit, test_set, [images.train.epochs])
    kept = {"maps": model.attention_maps().detach(), "permutation": permutation(images, test_set)}
    RunFolder(folder).save_tensors(maps_name(order, seed), kept)
    return {"accuracy": done["accuracy"][-1], "seconds": done["seconds"]}


def maps_name(order: str, seed: int) -> str:
    """The file of a trained model's maps."""
    return f"maps-{order}-{seed}"


def run(config: JigsawConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train every seed, then put each one's positions together."""
    orders = [(SHUFFLED, i) for i in range(config.images.seeds)] + [
        (PLAIN, i) for i in range(config.plain_seeds)
    ]
    seeds = [(order, config.seed + i) for order, i in orders]
    test_set = load_split(config.images, "test")
    model: Any = build(config.images, MODEL, config.seed, test_set, **OPTIONS)
    grid = model.patch_embed.grid_size
    settings = {f"{order}/{seed}": (config, order, seed, run.path) for order, seed in seeds}
    with follow_trainings(run, progress, config.images.train):
        trained = sweep("jigsaw", settings, train_maps, run, progress)
    solved = {
        key: one | run.unit(f"solve/{key}", partial(solve, config, maps_name(order, seed), grid, run))
        for (key, one), (order, seed) in zip(trained.items(), seeds, strict=True)
    }
    baselines = run.unit("baselines", partial(without_training, config, grid))
    first = run.load_tensors(maps_name(SHUFFLED, config.seed))
    layout = torch.tensor(solved[f"{SHUFFLED}/{config.seed}"]["layout"])
    shown = test_set.images[: config.pictures]
    pictures, similarity = jigsaw_tensors(
        first["maps"], first["permutation"], layout, config.images.patch_size, shown
    )
    run.save_tensors("jigsaw", {"pictures": pictures, "similarity": similarity})
    seconds = {key: one.pop("seconds") for key, one in solved.items()}
    numbers = {"seeds": solved, "baselines": baselines, "grid": list(grid)}
    return {
        "title": "The jigsaw",
        "summary": "Where the patches of an image belong, from positional scores learned on shuffled patches alone.",
        "jigsaw": numbers,
        "timing": {"training_seconds": seconds},
        "page": to_plain(
            [
                puzzle_section(numbers, config.images.data, config.seed),
                scores_section(numbers, config.tile, config.seed),
            ]
        ),
    }


def solve(config: JigsawConfig, name: str, grid: tuple[int, int], run: RunFolder) -> dict[str, Any]:
    """The numbers of one trained model."""
    kept = run.load_tensors(name)
    return piece_together(kept["maps"], kept["permutation"], grid, config.tile, config.rounds)


def piece_together(
    maps: Float[Tensor, "layers h N N"],
    permutation: Int[Tensor, " N"],
    grid: tuple[int, int],
    tile: int,
    rounds: int = 400,
) -> dict[str, Any]:
    """What the positional maps of a model tell of the layout of the images it was trained on.

    Args:
        maps: of a model that was given patch ``permutation[j]`` at position j.
        permutation: only what is found is compared with it.
        grid: (H, W) patches.
        tile: side of the neighbourhoods for patch association.
        rounds: of growing the layout again.
    """
    similarity = profile_similarity(maps)
    layout = recover_layout(similarity, grid, rounds=rounds)
    embedded = assigned_layout(similarity, grid)
    tiles = Partition.tiles(grid, (tile, tile))
    association = patch_association(in_true_order(maps, permutation), tiles)
    likeness = patch_association(in_true_order(similarity, permutation), tiles)
    return {
        "pairs": neighbour_pairs_recovered(layout, permutation, grid),
        "embedded_pairs": neighbour_pairs_recovered(embedded, permutation, grid),
        "recall": neighbour_recall(similarity, permutation, grid),
        "association": torch.as_tensor(association.top_c).mean().item(),
        "profile_association": likeness.top_c,
        "association_chance": association.chance,
        "layout": align(layout, permutation, grid).tolist(),
    }


def in_true_order(maps: Maps, permutation: Int[Tensor, " N"]) -> Maps:
    """Maps between positions as maps between the patches that they hold."""
    holder = permutation.argsort()
    return maps[..., holder, :][..., holder]


def without_training(config: JigsawConfig, grid: tuple[int, int]) -> dict[str, Any]:
    """The same puzzle solved from the training images themselves, and from scores that are noise."""
    pixels = patch_pixels(to_float(load_split(config.images, "train").images), config.images.patch_size)
    count = grid[0] * grid[1]
    draws = torch.randn(config.images.seeds, 8, count, count, generator=Generator().manual_seed(config.seed))
    found = {
        "images": [partial_correlation(pixels.double())],
        "noise": [profile_similarity(draw) for draw in draws],
    }
    return {name: found_from(ones, grid, config.rounds) for name, ones in found.items()}


def found_from(
    similarities: list[Float[Tensor, "N N"]], grid: tuple[int, int], rounds: int
) -> dict[str, float]:
    """Pairs found and recall, in the mean, for positions in true order."""
    truth = torch.arange(grid[0] * grid[1])
    layouts = [recover_layout(one, grid, rounds=rounds) for one in similarities]
    return {
        "pairs": fmean(neighbour_pairs_recovered(layout, truth, grid) for layout in layouts),
        "recall": fmean(neighbour_recall(one, truth, grid) for one in similarities),
    }


def patch_pixels(images: Float[Tensor, "n c H W"], patch_size: int) -> Float[Tensor, "samples D"]:
    """The mean of each patch over its pixels, image by image and channel by channel, about its mean."""
    patches = F.avg_pool2d(images, patch_size).flatten(2).flatten(0, 1)
    return patches - patches.mean(0)


def jigsaw_tensors(
    maps: Float[Tensor, "layers h N N"],
    permutation: Int[Tensor, " N"],
    layout: Int[Tensor, " N"],
    patch_size: int,
    images: UInt8[Tensor, "n c H W"],
) -> tuple[UInt8[Tensor, "stages n c H W"], Float[Tensor, "kinds N N"]]:
    """What the page draws: images before, as the model saw them and put back; how positions are related.

    The relations are, between patches in their true order, the likeness of profiles and the mean attention.
    """
    seen = shuffle_patches(images, patch_size, permutation)
    again = shuffle_patches(seen, patch_size, layout.argsort())
    likeness = in_true_order(profile_similarity(maps), permutation).fill_diagonal_(0).clamp_(min=0)
    attention = in_true_order(maps, permutation).double().mean((0, 1))
    return torch.stack([images, seen, again]), torch.stack([likeness, attention])

"""The layout of images, recovered from the positional scores of a model that only saw their patches shuffled."""

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from rich.progress import Progress
from torch import Generator, Tensor, nn

import posattn.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn import checks
from posattn.data.images import ImageSet, load_images, shuffle_patches, to_float
from posattn.data.structured import Partition
from posattn.learning.images import TrainConfig, evaluate, train
from posattn.measure.assembly import assigned_layout, recover_layout
from posattn.measure.association import patch_association
from posattn.measure.layout import (
    align,
    neighbour_pairs_recovered,
    neighbour_recall,
    partial_correlation,
    profile_similarity,
)
from posattn.page import to_plain
from posattn.recipes import recipe
from posattn.recipes.sweep import sweep
from posattn.recipes.vision.jigsaw_page import PLAIN, SHUFFLED, puzzle_section, scores_section
from posattn.records import CHECKPOINTS, RunFolder
from posattn.shapes import Maps


@dataclass(frozen=True)
class JigsawConfig:
    """Positional ViTs with free tables of scores and no position embedding besides: place is in the scores."""

    data: str = "cifar10"
    """A name of `posattn list data`, or the path of a folder or a parquet file"""
    data_dir: Path | None = None
    """Where the files of a named set are"""
    images: int = 40_000
    """Training images, the first of the set"""
    model: str = "vit_posattn_tiny_patch16_224"
    """A name of `posattn list models`"""
    patch_size: int = 4
    embed_dim: int = 64
    depth: int = 4
    num_heads: int = 8
    seeds: int = 3
    """Of shuffled training, each with a permutation of its own"""
    plain_seeds: int = 1
    """Of training on images as they are"""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=2, batch_size=64, lr=3e-3, warmup_epochs=0.2, clip=1.0, bfloat16=True, record_every=50
        )
    )
    rounds: int = 400
    """Of growing the layout again"""
    tile: int = 2
    """Side of the neighbourhoods, in patches, that patch association is measured on"""
    pictures: int = 6
    """Test images shown"""
    seed: int = 0


def grid_of(config: JigsawConfig, images: ImageSet) -> tuple[int, int]:
    """Rows and columns of patches."""
    _, height, width = images.shape
    rows = checks.divides("patch_size", config.patch_size, "image height", height)
    return rows, checks.divides("patch_size", config.patch_size, "image width", width)


def permutation_of(config: JigsawConfig, order: str, seed: int, images: ImageSet) -> Tensor:
    """The patch that each position holds."""
    rows, columns = grid_of(config, images)
    if order == PLAIN:
        return torch.arange(rows * columns)
    return torch.randperm(rows * columns, generator=Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def loaded(data: str, split: str, data_dir: Path | None) -> ImageSet:
    """A set, read from its files once a process."""
    return load_images(data, split, data_dir)


def build(config: JigsawConfig, seed: int, images: ImageSet) -> nn.Module:
    """The model at the random start of the seed."""
    channels, height, width = images.shape
    checks.divides("num_heads", config.num_heads, "embed_dim", config.embed_dim)
    torch.manual_seed(seed)
    return timm.create_model(
        config.model,
        img_size=(height, width),
        patch_size=config.patch_size,
        in_chans=channels,
        num_classes=images.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        pos_embed="none",
        scores="table",
        score_init="small",
    )


def train_maps(config: JigsawConfig, order: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one model and keep its maps: test accuracy, and the seconds that training took."""
    run, unit = RunFolder(folder), maps_name(order, seed)
    sets = (loaded(config.data, split, config.data_dir) for split in ("train", "test"))
    permutation = permutation_of(config, order, seed, loaded(config.data, "test", config.data_dir))
    train_set, test_set = (
        replace(one, images=shuffle_patches(one.images, config.patch_size, permutation)) for one in sets
    )
    model: Any = build(config, seed, test_set)
    chosen = train_set.select(torch.arange(min(config.images, len(train_set))))
    settings = replace(config.train, seed=seed)
    for record in train(model, chosen, settings, checkpoints=folder / CHECKPOINTS / unit):
        if record.end_of_epoch:
            run.log(unit, step=record.step, loss=record.loss)
    run.save_tensors(unit, {"maps": model.attention_maps().detach(), "permutation": permutation})
    return {"accuracy": evaluate(model, test_set), "seconds": record.seconds}


def maps_name(order: str, seed: int) -> str:
    """The file of a trained model's maps."""
    return f"maps-{order}-{seed}"


def run_jigsaw(config: JigsawConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train every seed, then put each one's positions together."""
    orders = [(SHUFFLED, i) for i in range(config.seeds)] + [(PLAIN, i) for i in range(config.plain_seeds)]
    seeds = [(order, config.seed + i) for order, i in orders]
    test_set = loaded(config.data, "test", config.data_dir)
    grid = grid_of(config, test_set)
    settings = {f"{order}/{seed}": (config, order, seed, run.path) for order, seed in seeds}
    trained = sweep("jigsaw", settings, train_maps, run, progress)
    solved = {
        key: one | run.unit(f"solve/{key}", partial(solve, config, maps_name(order, seed), grid, run))
        for (key, one), (order, seed) in zip(trained.items(), seeds, strict=True)
    }
    baselines = run.unit("baselines", partial(without_training, config, grid))
    first = run.load_tensors(maps_name(SHUFFLED, config.seed))
    layout = torch.tensor(solved[f"{SHUFFLED}/{config.seed}"]["layout"])
    shown = first_images(test_set, config.pictures)
    pictures, similarity = jigsaw_tensors(
        first["maps"], first["permutation"], layout, config.patch_size, shown
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
                puzzle_section(numbers, config.data, config.seed),
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
    train_set = loaded(config.data, "train", config.data_dir)
    pixels = patch_pixels(to_float(first_images(train_set, config.images)), config.patch_size)
    count = grid[0] * grid[1]
    draws = torch.randn(config.seeds, 8, count, count, generator=Generator().manual_seed(config.seed))
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


def first_images(image_set: ImageSet, count: int) -> Tensor:
    """The first images, at most ``count``."""
    return image_set.images[:count]


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


@recipe(run_jigsaw)
def jigsaw(smoke: bool = False) -> JigsawConfig:
    """The layout of images, recovered from the positional scores of a model trained on shuffled patches.

    Claim: a positional ViT that never saw where its patches belong holds the grid in its scores.
    Command: posattn run jigsaw --data-dir FOLDER
    Time: 2 minutes a seed of training on one CPU core that other processes shared, 9 minutes in all
    Expected (CIFAR-10, shuffled seeds 0 to 2, plain seed 0, one CPU core): 100.0 ± 0.0 % of neighbouring pairs put
    back (chance 5.6 %, from noise 3.9 %, by embedding and assignment 57.7 ± 2.6 %), recall 82.0 ± 2.0 %; plain training
    100.0 % and 80.8 %; patch association with 2x2 neighbourhoods 0.596 shuffled and 0.602 plain for the likeness of
    profiles, 0.064 and 0.063 for the attention maps (chance 0.0625); test accuracy 48.5 % shuffled, 49.5 % plain.
    """
    if not smoke:
        return JigsawConfig()
    settings = TrainConfig(epochs=4, batch_size=64, lr=1e-2, warmup_epochs=0.5)
    return JigsawConfig(
        data="digits",
        patch_size=2,
        embed_dim=16,
        depth=1,
        num_heads=4,
        seeds=2,
        train=settings,
        rounds=5,
        pictures=4,
    )

"""The layout of images, recovered from the positional scores of a model that only saw their patches shuffled."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import Progress
from torch import Generator, Tensor, nn

import posattn.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn import checks
from posattn.data.images import ImageSet, load_images, shuffle_patches
from posattn.learning.images import TrainConfig, evaluate, train
from posattn.recipes import recipe
from posattn.recipes.sweep import sweep
from posattn.records import CHECKPOINTS, RunFolder

SHUFFLED, PLAIN = "shuffled", "plain"


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
    settings = {f"{order}/{config.seed + i}": (config, order, config.seed + i, run.path) for order, i in orders}
    sweep("jigsaw", settings, train_maps, run, progress)
    raise NotImplementedError


@recipe(run_jigsaw)
def jigsaw(smoke: bool = False) -> JigsawConfig:
    """The layout of images, recovered from positional scores alone."""
    if not smoke:
        return JigsawConfig()
    return JigsawConfig(data="digits")

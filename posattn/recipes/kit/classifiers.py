"""Classifiers of one size trained on one image set: what the recipes on real images have in common."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Int
from rich.progress import Progress
from torch import Generator, Tensor, nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn import checks
from posattn.bench.timing import interleaved, spread
from posattn.recipes.kit.settings import ARCHITECTURES, ImagesConfig
from posattn.runs.folder import CHECKPOINTS, RunFolder
from posattn.runs.sweep import sweep
from posattn.vision.data.config import DataConfig
from posattn.vision.data.images import ImageSet, shuffle_patches, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.logs import TrainingLog, follow_trainings
from posattn.vision.training.loop import evaluate, train

AnyImages = ImageSet | ImageStream


@lru_cache(maxsize=4)
def read(data: DataConfig, split: str) -> AnyImages:
    """A split as it is stored; a process that trains several models decodes it once."""
    return data.load(split)


def load_split(config: ImagesConfig, split: str) -> Any:
    """The images of a split as the models see them: so many of the training ones, and in the arrangement asked for.

    An ImageSet, or an ImageStream, of which neither can be asked.
    """
    images = read(DataConfig(**{part.name: getattr(config, part.name) for part in fields(DataConfig)}), split)
    if isinstance(images, ImageStream):
        if config.train_images is not None or config.arrangement != "plain":
            raise ValueError(
                f"{config.data} is streamed: train_images and arrangement cannot be {config.train_images} "
                f"and {config.arrangement}"
            )
        return images
    if split == "train" and config.train_images is not None:
        if checks.positive_int("train_images", config.train_images) > len(images):
            raise ValueError(f"train_images must be at most {len(images)}, got {config.train_images}")
        order = torch.randperm(len(images), generator=Generator().manual_seed(0))
        images = images.select(order[: config.train_images].sort().values)
    if config.arrangement == "plain":
        return images
    return replace(
        images, images=shuffle_patches(images.images, moved_size(config), permutation(config, images))
    )


def moved_size(config: ImagesConfig) -> int:
    """Pixels a side of what an arrangement moves."""
    return 1 if config.arrangement == "pixels" else config.patch_size


def permutation(config: ImagesConfig, images: ImageSet) -> Int[Tensor, " D"]:
    """The patch (or pixel) of the original that each place of an arranged image holds."""
    size, (_, height, width) = moved_size(config), images.shape
    rows = checks.divides("patch_size", size, "image height", height)
    count = rows * checks.divides("patch_size", size, "image width", width)
    if config.arrangement == "plain":
        return torch.arange(count)
    return torch.randperm(count, generator=Generator().manual_seed(config.shuffle_seed))


def check_images(config: ImagesConfig) -> None:
    """Raise, before anything is trained, what ``train_all`` would raise of data and models."""
    test_set = load_split(config, "test")
    for name in config.models:
        build(config, name, 0, test_set)


def build(config: ImagesConfig, name: str, seed: int, images: AnyImages, **options: Any) -> nn.Module:
    """The timm model at the size of the config, at the random start of the seed."""
    architecture, (channels, height, width) = ARCHITECTURES[name], images.shape
    torch.manual_seed(seed)
    made = partial(
        timm.create_model,
        architecture.model,
        in_chans=channels,
        num_classes=images.num_classes,
        **architecture.options,
        **options,
    )
    if not architecture.sized:
        return made()
    for side, pixels in (("height", height), ("width", width)):
        checks.divides("patch_size", config.patch_size, f"image {side}", pixels)
    checks.divides("num_heads", config.num_heads, "embed_dim", config.embed_dim)
    return made(
        img_size=(height, width),
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
    )


def train_all(
    config: ImagesConfig, seed: int, run: RunFolder, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """Train each model with each seed, parts of a sweep; what ``train_one`` says of each seed, by model."""
    settings = {
        f"{name}/{seed + index}": (config, name, seed + index, run.path)
        for index in range(config.seeds)
        for name in config.models
    }
    with follow_trainings(run, progress, config.train):
        done = sweep("images", settings, train_one, run, progress)
    return {name: [one for key, one in done.items() if key.split("/")[0] == name] for name in config.models}


def train_one(
    config: ImagesConfig,
    name: str,
    seed: int,
    folder: Path,
    unit: str | None = None,
    after: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Train one model into a run folder, as ``unit``: test accuracy over the epochs, and the seconds of training."""
    test_set = load_split(config, "test")
    model = build(config, name, seed, test_set)
    return fit(model, config, name, seed, folder, unit or weights_name(name, seed), test_set, after)


def fit(
    model: nn.Module,
    config: ImagesConfig,
    name: str,
    seed: int,
    folder: Path,
    unit: str,
    test_set: AnyImages,
    after: Sequence[int] | None = None,
) -> dict[str, Any]:
    """``train_one`` of a model that was built; test accuracy ``after`` these epochs, None standing for every one."""
    run = RunFolder(folder)
    settings = replace(config.train, seed=seed)
    train_set = load_split(config, "train")
    # an interrupted training goes on from its checkpoint: what was measured before it is in the log
    with TrainingLog(run, unit, config.tensorboard) as log:
        for record in train(model, train_set, settings, checkpoints=folder / CHECKPOINTS / unit):
            tested = record.end_of_epoch and (after is None or round(record.epoch) in after)
            log.write(record, **({"accuracy": evaluate(record.model, test_set)} if tested else {}))
    run.save_tensors(unit, model.state_dict())
    ends = [row for row in log.rows if "accuracy" in row]
    return {
        "accuracy": [row["accuracy"] for row in ends],
        "elapsed": [row["seconds"] for row in ends],
        "seconds": record.seconds,
        "precision": record.precision,
    }


def weights_name(name: str, seed: int) -> str:
    """The file of a trained model."""
    return f"images-{name.replace(' ', '-')}-{seed}"


def load_trained(config: ImagesConfig, name: str, seed: int, images: AnyImages, run: RunFolder) -> Any:
    """A trained model, in evaluation mode."""
    model = build(config, name, seed, images)
    model.load_state_dict(run.load_tensors(weights_name(name, seed)))
    return model.eval()


def first_images(images: AnyImages, count: int) -> Tensor:
    """The first images of a set, at most ``count``, as models take them."""
    held, _ = next(iter(images.batches([torch.arange(min(count, len(images)))])))
    return to_float(held)


@torch.inference_mode()
def throughput(models: dict[str, nn.Module], images: AnyImages, rounds: int) -> dict[str, list[float]]:
    """Images a second in inference, the models taking turns: median and quartiles."""
    pixels = first_images(images, 512)
    works = {name: partial(model, pixels) for name, model in models.items()}
    seconds = interleaved(works, rounds)
    return {name: list(spread([len(pixels) / s for s in each])) for name, each in seconds.items()}

"""Structure that transfers: positional maps learned on one image set and used on another with the same grid."""

import math
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.kit.classifiers import (
    build,
    check_data,
    check_models,
    check_precision,
    load_split,
    load_trained,
    read,
    train_grid,
    train_one,
)
from posattn.recipes.kit.settings import POSITIONAL
from posattn.recipes.transplant.locality import local_maps
from posattn.recipes.transplant.settings import TransplantConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, mean_lines, mean_table, to_plain
from posattn.runs.ranks import world_size
from posattn.runs.seeds import averaged_text, collect, count_text, over_seeds
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.data.images import ImageSet
from posattn.vision.models.attention import FrozenMaps
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import evaluate, train

TRANSPLANTED, SCRATCH, TUNED, LOCAL = "transplanted maps", "scratch", "fine-tuned", "random locality"
ARMS = (TRANSPLANTED, SCRATCH, TUNED, LOCAL)
Numbers = dict[str, Any]


def run(config: TransplantConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Learn maps on the source with every seed, then train each arm on each target at each size."""
    check_models(config, [POSITIONAL])
    sizes = {target: available_sizes(config, target) for target in config.targets}
    steps = {target: [target_steps(config, target, size) for size in sizes[target]] for target in sizes}
    for target in config.targets:
        check_data(target_data(config, target), run)
    sources = product([POSITIONAL], config.all_seeds)
    learned = train_grid("source", train_one, config, sources, run, progress)
    cells = [cell for target in sizes for cell in product([target], ARMS, sizes[target], config.all_seeds)]
    done = train_grid("transplant", train_arm, config, cells, run, progress)
    numbers = {}
    for target in config.targets:
        seeds = [
            {arm: [done[target, arm, size, seed] for size in sizes[target]] for arm in ARMS}
            for seed in config.all_seeds
        ]
        found = {"size": sizes[target], "steps": steps[target], "seeds": seeds}
        numbers[target] = {**found, **over_seeds(seeds)}
    return {
        "title": "Structure that transfers",
        "summary": f"Positional maps learned on {config.data.data}, frozen in new models for other sets.",
        "source_accuracy": [one["accuracy"][-1] for one in learned.values()],
        "targets": numbers,
        "page": to_plain([target_section(config, target, numbers[target]) for target in config.targets]),
    }


def target_data(config: TransplantConfig, target: str) -> MemoryDataConfig:
    """A target in the size of the source's images. Raises ValueError if they are not square, as targets are."""
    _, height, width = load_split(config, "test").shape
    if height != width:
        raise ValueError(f"{config.data.data} must have square images, as targets do, got {height} x {width}")
    return MemoryDataConfig(target, config.target_dir, config.data.download, image_size=height)


def target_set(config: TransplantConfig, target: str, split: str) -> ImageSet:
    """A target in the size and channels of the source's images. Raises ValueError if its channels do not fit."""
    channels, _, _ = load_split(config, "test").shape
    images: Any = read(target_data(config, target), split)
    if images.shape[0] not in (1, channels):
        raise ValueError(f"{target} has {images.shape[0]} channels, {config.data.data} has {channels}")
    return replace(images, images=images.images.expand(-1, channels, -1, -1))


def available_sizes(config: TransplantConfig, target: str) -> list[int]:
    """The sizes for which every class of the target has enough training images. Raises ValueError if there are none."""
    target_set(config, target, "test")
    images = target_set(config, target, "train")
    smallest = int(images.labels.bincount(minlength=images.num_classes).min())
    if not (sizes := [size for size in config.sizes if size <= smallest]):
        raise ValueError(f"--sizes: {target} has {smallest} images in its smallest class, got {config.sizes}")
    return sizes


def draw_per_class(images: ImageSet, size: int, seed: int) -> ImageSet:
    """``size`` random images of each class."""
    order = torch.randperm(len(images), generator=Generator().manual_seed(seed))
    labels = images.labels[order]
    return images.select(torch.cat([order[labels == c][:size] for c in range(images.num_classes)]))


def train_arm(config: TransplantConfig, target: str, arm: str, size: int, seed: int, folder: Path) -> float:
    """Train one arm on ``size`` images per class of the target; its test accuracy."""
    images = draw_per_class(target_set(config, target, "train"), size, seed)
    test_set = target_set(config, target, "test")
    subset = torch.randperm(len(test_set), generator=Generator().manual_seed(0))[: config.test_images]
    run = RunFolder(folder)
    check_precision(run, f"{target}/{arm}/{size}/{seed}", config.train)
    model = starting_model(config, arm, seed, images, run)
    for _ in train(model, images, target_training(config, arm, len(images)), seed=seed):
        pass
    return evaluate(model, test_set.select(subset))


def target_training(config: TransplantConfig, arm: str, num_images: int) -> TrainConfig:
    """The training of an arm: that of the source, but for ``config.target``."""
    given = config.target
    batch = min(given.batch_size, num_images)
    return replace(
        config.train,
        batch_size=batch,
        epochs=math.ceil(given.steps / (num_images // batch)),
        lr=given.tuning_lr if arm == TUNED else given.lr,
        warmup_epochs=given.warmup_epochs,
    )


def target_steps(config: TransplantConfig, target: str, size: int) -> int:
    """The optimizer steps of a training on ``size`` images per class: those asked for, up to whole epochs.

    Raises ValueError if the warmup is not shorter than the training, or processes and parts do not divide a batch.
    """
    num_images = size * target_set(config, target, "test").num_classes
    training = target_training(config, SCRATCH, num_images)
    parts = world_size() * training.accumulation
    if training.batch_size % parts:
        raise ValueError(
            f"processes x --train.accumulation must divide the batches of {training.batch_size} on "
            f"{count_text(size, 'image')} per class of {target} (--target.batch-size), got {parts}"
        )
    if training.warmup_epochs >= training.epochs:
        raise ValueError(
            f"--target.warmup-epochs must be below the {training.epochs} epochs on {size} images per class of "
            f"{target}, got {training.warmup_epochs}"
        )
    return training.epochs * (num_images // training.batch_size)


def steps_text(least: int, steps: list[int]) -> str:
    """The steps at each size."""
    if len(set(steps)) == 1:
        return f"{steps[0]} steps each"
    return f"at least {least} steps, in whole epochs: {', '.join(map(str, steps))}"


def starting_model(config: TransplantConfig, arm: str, seed: int, images: ImageSet, run: RunFolder) -> Any:
    """The model of an arm before its training on a target."""
    new_model = partial(build, config.size, POSITIONAL, seed, images)
    if arm == SCRATCH:
        return new_model()
    learned = load_trained(config.size, POSITIONAL, seed, load_split(config, "test"), run)
    if arm == TUNED:
        torch.manual_seed(seed)
        learned.reset_classifier(images.num_classes)
        return learned
    maps = learned.attention_maps().detach()
    if arm == LOCAL:
        maps = local_maps(maps.shape, learned.patch_embed.grid_size, seed).to(maps)
    model: Any = new_model(scores="frozen")
    for layer, layer_maps in zip(model.positional_layers(), maps, strict=True):
        layer.attach(FrozenMaps(layer_maps))
    return model


def target_section(config: TransplantConfig, target: str, numbers: dict[str, Any]) -> Section:
    """The curves of one target."""
    source, sizes = config.data.data, numbers["size"]
    few, many = ({arm: f"{100 * numbers['mean'][arm][i]:.1f} %" for arm in ARMS} for i in (0, -1))
    claim = (
        f"With {count_text(sizes[0], 'image')} per class of {target}, frozen maps of {source} gave "
        f"{few[TRANSPLANTED]}, training from scratch {few[SCRATCH]}, fine-tuning of the whole model {few[TUNED]} and "
        f"maps of random locality {few[LOCAL]}"
    )
    if len(sizes) > 1:
        claim += f"; with {sizes[-1]}, {many[TRANSPLANTED]}, {many[SCRATCH]}, {many[TUNED]} and {many[LOCAL]}"
    steps = steps_text(config.target.steps, numbers["steps"])
    caption = f"{averaged_text('Mean and standard deviation', config.seeds)}; {steps}."
    if skipped := [size for size in config.sizes if size not in sizes]:
        caption += (
            f" Skipped, as a class of {target} has fewer images: {', '.join(map(str, skipped))} per class."
        )
    figure = mean_lines(
        f"Test accuracy on {target}",
        "size",
        {arm: f"*.{arm}" for arm in ARMS},
        "training images per class",
        "test accuracy",
        x_log=True,
        caption=caption,
    )
    seeds = collect(numbers["seeds"])
    rows = {f"{size}": [seeds[arm][i] for arm in ARMS] for i, size in enumerate(sizes)}
    columns = ["images per class", *ARMS]
    table = mean_table(f"Test accuracy on {target}, %", columns, rows, 1, 100, caption)
    return Section(f"{source} to {target}", f"{claim}.", [figure, table], at=f"targets.{target}")

"""Structure that transfers: positional maps learned on one image set, at work on another of the same grid."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Generator, Tensor

from posattn.recipes.kit.classifiers import build, load_split, load_trained, read, train_one
from posattn.recipes.kit.settings import POSITIONAL
from posattn.recipes.transplant.settings import TransplantConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.vision.data.config import DataConfig
from posattn.vision.data.images import ImageSet
from posattn.vision.grid import Tokens, offsets
from posattn.vision.models.attention import FrozenMaps
from posattn.vision.training.logs import follow_trainings
from posattn.vision.training.loop import evaluate, train

TRANSPLANTED, SCRATCH, TUNED, LOCAL = "transplanted maps", "scratch", "fine-tuned", "random locality"
ARMS = (TRANSPLANTED, SCRATCH, TUNED, LOCAL)
Numbers = dict[str, Any]


def run(config: TransplantConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Learn maps on the source with every seed, then train each way on each target at each size."""
    for target in config.targets:
        target_set(config, target, "test")
    seeds = range(config.seed, config.seed + config.source.seeds)
    with follow_trainings(run, progress, config.source.train):
        sources = {f"{seed}": (config.source, POSITIONAL, seed, run.path) for seed in seeds}
        learned = sweep("source", sources, train_one, run, progress)
    settings = {
        f"{target}/{arm}/{size}/{seed}": (config, target, arm, size, seed, run.path)
        for target in config.targets
        for size in available(config, target)
        for arm in ARMS
        for seed in seeds
    }
    done = sweep("transplant", settings, train_arm, run, progress)
    numbers = {target: gather(config, target, done) for target in config.targets}
    return {
        "title": "Structure that transfers",
        "summary": f"Positional maps learned on {config.source.data}, frozen in new models for other sets.",
        "source_accuracy": [one["accuracy"][-1] for one in learned.values()],
        "targets": numbers,
        "page": to_plain([section_of(config, target, numbers[target]) for target in config.targets]),
    }


def target_set(config: TransplantConfig, target: str, split: str) -> ImageSet:
    """A target in the size and channels of the source's images."""
    channels, height, _ = load_split(config.source, "test").shape
    images: Any = read(DataConfig(target, config.target_dir, image_size=height), split)
    if images.shape[0] not in (1, channels):
        raise ValueError(f"{target} has {images.shape[0]} channels, the source {channels}")
    return replace(images, images=images.images.expand(-1, channels, -1, -1))


def available(config: TransplantConfig, target: str) -> list[int]:
    """The sizes for which every class of the target has training images enough."""
    smallest = int(target_set(config, target, "train").labels.bincount().min())
    return [size for size in config.sizes if size <= smallest]


def draw(images: ImageSet, size: int, seed: int) -> ImageSet:
    """``size`` images of each class."""
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    labels = images.labels[order]
    return images.select(torch.cat([order[labels == c][:size] for c in range(images.num_classes)]))


def train_arm(config: TransplantConfig, target: str, arm: str, size: int, seed: int, folder: Path) -> float:
    """Train one way on ``size`` images a class of the target; its test accuracy."""
    images = draw(target_set(config, target, "train"), size, seed)
    test_set = target_set(config, target, "test")
    count = min(config.test_images, len(test_set))
    test_set = test_set.select(torch.randperm(len(test_set), generator=Generator().manual_seed(0))[:count])
    model = start_of(config, arm, seed, images, RunFolder(folder))
    batch = min(config.train.batch_size, len(images))
    settings = replace(
        config.train,
        seed=seed,
        batch_size=batch,
        epochs=math.ceil(config.steps / (len(images) // batch)),
        lr=config.tuning_lr if arm == TUNED else config.train.lr,
    )
    for _ in train(model, images, settings):
        pass
    return evaluate(model, test_set)


def start_of(config: TransplantConfig, arm: str, seed: int, images: ImageSet, run: RunFolder) -> Any:
    """The model of an arm before its training on a target."""
    fresh = partial(build, config.source, POSITIONAL, seed, images)
    if arm == SCRATCH:
        return fresh()
    learned = load_trained(config.source, POSITIONAL, seed, load_split(config.source, "test"), run)
    if arm == TUNED:
        torch.manual_seed(seed)
        learned.reset_classifier(images.num_classes)
        return learned
    maps = learned.attention_maps().detach()
    if arm == LOCAL:
        maps = local_maps(maps.shape, learned.patch_embed.grid_size, seed).to(maps)
    model: Any = fresh(scores="frozen")
    for layer, of_layer in zip(model.positional_layers(), maps, strict=True):
        layer.attach(FrozenMaps(of_layer))
    return model


def local_maps(shape: tuple[int, ...], grid: tuple[int, int], seed: int) -> Float[Tensor, "layers h N N"]:
    """Maps that look near the query: in each head a Gaussian of random width around a random offset.

    Offsets are normal with a standard deviation of one patch, widths log-uniform between 0.5 and 2 patches.
    """
    generator = Generator().manual_seed(seed)
    tokens = Tokens(0, *grid, 1.0, 1.0)
    centre = torch.randn(*shape[:2], 2, 1, 1, generator=generator, dtype=torch.double)
    width = 0.5 * 4 ** torch.rand(*shape[:2], 1, 1, generator=generator, dtype=torch.double)
    apart = (offsets(tokens) + centre).norm(dim=2)
    return (-(apart**2) / (2 * width**2)).softmax(-1)


def gather(config: TransplantConfig, target: str, done: dict[str, float]) -> Numbers:
    """Accuracy of every arm by size: all seeds, mean and standard deviation."""
    sizes = available(config, target)
    seeds = range(config.seed, config.seed + config.source.seeds)
    values = {
        arm: [[done[f"{target}/{arm}/{size}/{seed}"] for seed in seeds] for size in sizes] for arm in ARMS
    }
    return {
        "size": sizes,
        "values": values,
        "accuracy": {arm: [mean_std(at)[0] for at in line] for arm, line in values.items()},
        "accuracy_std": {arm: [mean_std(at)[1] for at in line] for arm, line in values.items()},
    }


def section_of(config: TransplantConfig, target: str, numbers: Numbers) -> Section:
    """The curves of one target."""
    source, means, sizes = config.source.data, numbers["accuracy"], numbers["size"]
    few = {arm: f"{100 * means[arm][0]:.1f} %" for arm in ARMS}
    many = {arm: f"{100 * means[arm][-1]:.1f} %" for arm in ARMS}
    claim = (
        f"With {sizes[0]} images a class of {target}, frozen maps of {source} gave {few[TRANSPLANTED]}, training from "
        f"scratch {few[SCRATCH]}, fine-tuning of the whole model {few[TUNED]} and maps of random locality "
        f"{few[LOCAL]}; with {sizes[-1]}, {many[TRANSPLANTED]}, {many[SCRATCH]}, {many[TUNED]} and {many[LOCAL]}."
    )
    rows = [
        [f"{size}", *(mean_std_text(numbers["values"][arm][i], 1, 100) for arm in ARMS)]
        for i, size in enumerate(sizes)
    ]
    caption = f"Mean and standard deviation over {config.source.seeds} seeds; {config.steps} steps each."
    return Section(
        f"{source} to {target}",
        claim,
        [
            Lines(
                f"Test accuracy on {target}",
                f"targets.{target}.size",
                {arm: f"targets.{target}.accuracy.{arm}" for arm in ARMS},
                {arm: f"targets.{target}.accuracy_std.{arm}" for arm in ARMS},
                x_label="training images a class",
                y_label="test accuracy",
                x_log=True,
                caption=caption,
            ),
            Table(f"Test accuracy on {target}, %", ["images a class", *ARMS], rows, caption),
        ],
    )

"""Throughput of loading and augmentation, compared with what training steps consume."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from posattn.bench.loading import consumption, memory_loading, rates, stream_loading
from posattn.bench.timing import Quartiles, quartiles
from posattn.recipes.kit.classifiers import AnyImages, build
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL, ModelSize
from posattn.recipes.loading.settings import LoadingConfig
from posattn.runs.device import threads_of
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, Table, to_plain
from posattn.vision.data.folders import split_folder
from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.data.streams import ImageStream, stream_images
from posattn.vision.training.config import TrainConfig

MODELS = (ORIGINAL, POSITIONAL)
AUGMENTATIONS: dict[str, dict[str, Any]] = {  # each adds to the previous one
    "no augmentation": {},
    "crop, flip": {"padding": 4, "flip": True},
    "and TrivialAugment": {"padding": 4, "flip": True, "policy": "trivial"},
    "and mixup": {"padding": 4, "flip": True, "policy": "trivial", "mixup": 0.2},
}
TARGET = 5.0  # times the images that training steps take
Rates = dict[str, list[float]]  # images per second in each round
Ratios = dict[str, dict[str, Quartiles]]  # by kind of loading and model


def run(config: LoadingConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Measure each set, a unit that a resumed run does not repeat, with the threads that the run was started with."""
    torch.set_num_threads(threads_of(run.config["device"]))
    works = {name: partial(measure_memory, config, images) for name, images in opened(config).items()}
    if config.pictures is not None:
        stream = opened_stream(config, config.pictures)
        works[f"{config.pictures.resolve().name}, streamed"] = partial(measure_stream, config, stream)
    measured: dict[str, Rates] = {}
    for name, work in progress.track(works.items(), description="loading: sets"):
        measured[name] = run.unit(name, work)
    ratios = {name: loading_ratios(rates) for name, rates in measured.items()}
    return {
        "title": "Loading and training throughput",
        "summary": f"Batches of {config.batch_size}; models of width {config.embed_dim}, depth {config.depth}; "
        f"{torch.get_num_threads()} threads, {config.device}.",
        "timing": {"images_per_second": measured, "ratios": ratios},
        "page": to_plain([loading_section(config.rounds, measured, ratios)]),
    }


def opened(config: LoadingConfig) -> dict[str, ImageSet]:
    """Every set held in memory. Raises, before any is measured, what one that is missing or does not fit raises."""
    sets = {name: load_images(name, "train", config.data_dir) for name in config.sets}
    for images in sets.values():
        model(config, ORIGINAL, images)
        memory_loading(images, training(config))
    return sets


def opened_stream(config: LoadingConfig, folder: Path) -> ImageStream:
    """Random crops of the pictures of the training split, or of the only one. ValueError for fewer than are timed."""
    split = "train" if folder.is_dir() and split_folder(folder, "train") else "test"
    stream = stream_images(folder.name, split, folder, crop=True, workers=config.workers)
    if (timed := config.stream_batches * config.batch_size) > len(stream):
        raise ValueError(
            f"stream_batches x batch_size must be at most {len(stream)}, the pictures, got {timed}"
        )
    return stream


def measure_memory(config: LoadingConfig, image_set: ImageSet) -> Rates:
    """Images per second of each augmentation and of each model's training steps, interleaved."""
    image_set = image_set.to(config.device)
    works = {
        kind: memory_loading(image_set, training(config, **options), config.seed)
        for kind, options in AUGMENTATIONS.items()
    }
    return rates({**works, **training_steps(config, image_set)}, config.rounds)


def measure_stream(config: LoadingConfig, stream: ImageStream) -> Rates:
    """The same for random crops of pictures that are decoded by workers."""
    stream = stream.to(config.device)
    decoding = stream_loading(stream, training(config), config.stream_batches, config.seed)
    works = {f"decoding by {stream.workers} process(es)": decoding}
    return rates({**works, **training_steps(config, stream)}, config.rounds)


def training(config: LoadingConfig, **augmentation: Any) -> TrainConfig:
    """The training that images are loaded for."""
    return TrainConfig(batch_size=config.batch_size, precision=config.precision, **augmentation)


def training_steps(config: LoadingConfig, images: AnyImages) -> dict[str, Any]:
    """A training step of each model on a batch of images."""
    return {name: consumption(model(config, name, images), images.shape, training(config)) for name in MODELS}


def model(config: LoadingConfig, name: str, images: AnyImages) -> nn.Module:
    """The model at the images' size: patches of 2 pixels up to 16 px, of 4 up to 64 px, else of 16."""
    height = images.shape[1]
    patch_size = 2 if height <= 16 else 4 if height <= 64 else 16
    size = ModelSize(patch_size, config.embed_dim, config.depth, config.num_heads)
    return build(size, name, config.seed, images).to(config.device)


def loading_ratios(rates: Rates) -> Ratios:
    """Images loaded over images consumed: median and quartiles of the ratios within each round."""
    return {
        kind: {
            model: quartiles([a / b for a, b in zip(loaded, rates[model], strict=True)]) for model in MODELS
        }
        for kind, loaded in rates.items()
        if kind not in MODELS
    }


def loading_section(rounds: int, measured: Mapping[str, Rates], ratios: Mapping[str, Ratios]) -> Section:
    """The rates and ratios of each set, and the lowest ratio."""
    cases = [
        (ratio.median, name, kind, model)
        for name, kinds in ratios.items()
        for kind, by_model in kinds.items()
        for model, ratio in by_model.items()
    ]
    ratio, name, kind, model = min(cases)
    claim = (
        f"Loading should give at least {TARGET:g} times the images that training steps take. It did in "
        f"{sum(case[0] >= TARGET for case in cases)} of {len(cases)} cases; the lowest was {ratio:.1f} ({name}, "
        f"{kind}, {model})."
    )
    rows = []
    for name, kinds in ratios.items():
        texts = {
            kind: [f"{r.median:.1f} ({r.low:.1f} to {r.high:.1f})" for r in by_model.values()]
            for kind, by_model in kinds.items()
        } | {model: ["", ""] for model in MODELS}
        for work, columns in texts.items():
            label = f"training step: {work}" if work in MODELS else work
            rows.append([name, label, f"{quartiles(measured[name][work]).median:,.0f}", *columns])
    table = Table(
        "Images per second, loaded and consumed",
        ["images", "work", "images/s", *(f"times {model}" for model in MODELS)],
        rows,
        f"Median, and for ratios quartiles, of {rounds} rounds; ratios are taken within each round.",
    )
    return Section("Loading", claim, [table])

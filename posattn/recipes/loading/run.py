"""Loading and augmentation beside what training steps consume."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import Progress
from torch import nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn.bench.loading import consumption, memory_loading, rates, stream_loading
from posattn.bench.timing import Spread, spread
from posattn.recipes.loading.settings import LoadingConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, Table, to_plain
from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.data.streams import ImageStream, stream_images

MODELS = {"ViT": "vit_tiny_patch16_224", "positional ViT": "vit_posattn_tiny_patch16_224"}
AUGMENTATIONS: dict[str, dict[str, Any]] = {  # each with what the one before has
    "no augmentation": {},
    "crop, flip": {"padding": 4, "flip": True},
    "and TrivialAugment": {"padding": 4, "flip": True, "policy": "trivial"},
    "and mixup": {"padding": 4, "flip": True, "policy": "trivial", "mixup": 0.2},
}
TARGET = 5.0


def build(config: LoadingConfig, name: str, images: ImageSet | ImageStream) -> nn.Module:
    """The model at the images' size: patches of 2 pixels at 8 px, of 4 up to 64 px, else of 16."""
    channels, height, width = images.shape
    patch_size = 2 if height <= 16 else 4 if height <= 64 else 16
    torch.manual_seed(config.seed)
    return timm.create_model(
        MODELS[name],
        img_size=(height, width),
        patch_size=patch_size,
        in_chans=channels,
        num_classes=images.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
    ).to(config.device)


def measure_memory(config: LoadingConfig, name: str) -> dict[str, list[float]]:
    """Images a second of every augmentation and of every model's training steps, taking turns."""
    image_set = load_images(name, "train", config.data_dir).to(config.device)
    train = replace(config.train, seed=config.seed)
    works = {
        kind: memory_loading(image_set, replace(train, **options)) for kind, options in AUGMENTATIONS.items()
    }
    steps = {model: consumption(build(config, model, image_set), image_set.shape, train) for model in MODELS}
    return rates({**works, **steps}, config.rounds)


def measure_stream(config: LoadingConfig, folder: Path) -> dict[str, list[float]]:
    """The same for random crops of pictures that are decoded by workers."""
    split = "train" if (folder / "train").is_dir() else "test"
    stream = stream_images(folder.name, split, folder, crop=True, workers=config.workers).to(config.device)
    train = replace(config.train, seed=config.seed)
    works = {
        f"decoding by {stream.workers} process(es)": stream_loading(stream, train, config.stream_batches)
    }
    steps = {model: consumption(build(config, model, stream), stream.shape, train) for model in MODELS}
    return rates({**works, **steps}, config.rounds)


def run(config: LoadingConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every set is a unit that a resumed run does not repeat."""
    works = {name: partial(measure_memory, config, name) for name in config.sets}
    if config.pictures is not None:
        works[f"{config.pictures.name}, streamed"] = partial(measure_stream, config, config.pictures)
    bar = progress.add_task("loading: sets", total=len(works))
    measured: dict[str, dict[str, list[float]]] = {}
    for name, work in works.items():
        measured[name] = run.unit(name, work)
        progress.advance(bar)
    return {
        "title": "Loading beside training",
        "summary": f"Batches of {config.train.batch_size}; models of width {config.embed_dim}, depth {config.depth}; "
        f"{torch.get_num_threads()} threads, {config.device}.",
        "timing": {
            "images_per_second": measured,
            "ratios": {name: ratios(r) for name, r in measured.items()},
        },
        "page": to_plain([section(config, measured)]),
    }


def ratios(measured: dict[str, list[float]]) -> dict[str, dict[str, Spread]]:
    """Loaded over consumed, taken within each turn: median and quartiles, by kind of loading and model."""
    return {
        kind: {
            model: spread([a / b for a, b in zip(measured[kind], measured[model], strict=True)])
            for model in MODELS
        }
        for kind in measured
        if kind not in MODELS
    }


def section(config: LoadingConfig, measured: dict[str, dict[str, list[float]]]) -> Section:
    """The table, and the least ratio."""
    rows, least = [], []
    for name, rate in measured.items():
        for kind, by_model in ratios(rate).items():
            least += [(ratio.median, name, kind, model) for model, ratio in by_model.items()]
            cells = [f"{r.median:.1f} ({r.low:.1f} to {r.high:.1f})" for r in by_model.values()]
            rows.append([name, kind, f"{spread(rate[kind]).median:,.0f}", *cells])
        for model in MODELS:
            rows.append([name, f"training step: {model}", f"{spread(rate[model]).median:,.0f}", "", ""])
    ratio, name, kind, model = min(least)
    reached = sum(one[0] >= TARGET for one in least)
    return Section(
        "Loading",
        f"Loading should give at least {TARGET:g} times the images that training steps take. It did in {reached} of "
        f"{len(least)} cases; the least was {ratio:.1f} ({name}, {kind}, {model}).",
        [
            Table(
                "Images a second, loaded and consumed",
                ["images", "work", "images/s", *(f"times {model}" for model in MODELS)],
                rows,
                f"Median, and for ratios quartiles, of {config.rounds} turns; ratios are taken within each turn.",
            )
        ],
    )

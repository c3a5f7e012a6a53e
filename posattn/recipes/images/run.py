"""The original ViT and models whose attention depends on positions, trained alike on one set."""

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from rich.progress import Progress
from torch import nn

from posattn.bench.cost import multiply_adds
from posattn.bench.models import inference
from posattn.bench.timing import interleaved, quartiles
from posattn.recipes.images.gaps import gaps
from posattn.recipes.images.page import images_section
from posattn.recipes.images.positions import gram_gallery
from posattn.recipes.images.settings import ImagesConfig
from posattn.recipes.kit.classifiers import (
    AnyImages,
    build,
    check_models,
    first_images,
    load_split,
    load_splits,
    load_trained,
    train_grid,
    train_one,
)
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import over_seeds
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.training.allocator import keep_freed_memory

Numbers = dict[str, Any]


def run(config: ImagesConfig, run: RunFolder, progress: Progress) -> Numbers:
    """The comparison as a run of its own."""
    check_models(config, config.models)
    numbers, timing = compare_models(config, run, progress)
    return {
        "title": f"Positional attention against the original ViT on {config.data.data}",
        "summary": "Same size, epochs, augmentation and seeds.",
        "images": numbers,
        "timing": timing,
        "page": to_plain([images_section(config, numbers, timing)]),
    }


def compare_models(config: ImagesConfig, run: RunFolder, progress: Progress) -> tuple[Numbers, Numbers]:
    """Train each model with each seed. Returns the numbers and, apart from them, the timings."""
    cells = [(name, seed) for seed in config.all_seeds for name in config.models]
    train = partial(train_one, tensorboard=config.tensorboard)
    done = train_grid("images", train, config, cells, run, progress)
    seeds = [{name: done[name, seed] for name in config.models} for seed in config.all_seeds]
    test_set = load_split(config, "test")
    models = {name: load_trained(config.size, name, config.seed, test_set, run) for name in config.models}
    pixels = first_images(test_set, 512)
    speed = run.unit("images/speed", lambda: throughput(models, pixels, config.speed_rounds))
    initial = {name: build(config.size, name, config.seed, test_set) for name in config.models}
    grams, gram_labels = gram_gallery(initial, models)
    if gram_labels:
        run.save_tensors("positions", {"grams": torch.stack(grams)})
    accuracy = [{name: one["accuracy"] for name, one in models.items()} for models in seeds]
    any_model = config.models[0]
    numbers: Numbers = {
        "epoch": list(range(1, 1 + len(accuracy[0][any_model]))),
        "accuracy": over_seeds(accuracy),
        "final_accuracy": {name: [one[name][-1] for one in accuracy] for name in config.models},
        "precision": seeds[0][any_model]["precision"],
        "clock": " and ".join(
            sorted({one.get("clock", "wall") for models in seeds for one in models.values()})
        ),
        "gaps": gaps(seeds),
        "skipped": skipped_pictures(*load_splits(config)),
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "multiply_adds": {
            name: multiply_adds(for_inference(model), pixels[:1]) for name, model in models.items()
        },
        "grams": gram_labels,
        **(save_maps(models[POSITIONAL], run) if POSITIONAL in models else {}),
    }
    return numbers, {
        **training_times(seeds, numbers["accuracy"]["mean"]),
        "images_per_second": speed,
    }


def skipped_pictures(train_set: AnyImages, test_set: AnyImages) -> dict[str, int]:
    """How many pictures could not be decoded: of each split, or of ``both`` where a set without splits was divided."""
    if getattr(train_set, "divided", False):
        return {"both": train_set.skipped}
    return {"train": train_set.skipped, "test": test_set.skipped}


def save_maps(model: Any, run: RunFolder) -> Numbers:
    """Save the attention maps of a positional model; its grid of patches and a label for each head."""
    maps = model.attention_maps().detach()
    run.save_tensors("attention", {"maps": maps.flatten(0, 1)})
    layers, heads, _, _ = maps.shape
    labels = [f"layer {i // heads + 1}, head {i % heads + 1}" for i in range(layers * heads)]
    return {"grid": list(model.patch_embed.grid_size), "heads": labels}


def for_inference(model: Any) -> Any:
    """The model as it is used after training: positional maps are constants of it."""
    return freeze_attention(model) if hasattr(model, "attention_maps") else model


def throughput(models: Mapping[str, nn.Module], pixels: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Images per second in inference, where models are trained, interleaved: median and quartiles."""
    device = PartialState().device
    if device.type == "cpu":
        keep_freed_memory()  # as trainings do, which may have run in other processes: models differ in what it saves
    pixels = pixels.to(device)
    works = {
        name: inference(copy.deepcopy(model).to(pixels.device), pixels, pixels.dtype)
        for name, model in models.items()
    }
    seconds = interleaved(works, rounds)
    return {name: list(quartiles([len(pixels) / s for s in each])) for name, each in seconds.items()}


def training_times(seeds: list[dict[str, Numbers]], accuracy: dict[str, list[float]]) -> Numbers:
    """Seconds of training: in all, at each epoch, and until the mean accuracy reaches the original's final one.

    The last is None for a model that does not reach it, or where the original is not there.
    """
    elapsed = over_seeds([{name: one["elapsed"] for name, one in models.items()} for models in seeds])["mean"]
    goal = accuracy[ORIGINAL][-1] if ORIGINAL in accuracy else math.inf
    return {
        "training_seconds": {name: [models[name]["seconds"] for models in seeds] for name in accuracy},
        "elapsed": elapsed,
        "seconds_to_original": {
            name: next((t for t, a in zip(elapsed[name], line, strict=True) if a >= goal), None)
            for name, line in accuracy.items()
        },
    }

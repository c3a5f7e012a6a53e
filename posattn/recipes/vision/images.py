"""Act three: on real images, the ordinary ViT and the one whose attention depends on positions alone."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import Progress
from torch import Tensor, nn

import posattn.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn import checks
from posattn.data.images import ImageSet, load_images, to_float
from posattn.learning.images import TrainConfig, evaluate, train
from posattn.measure.speed import interleaved, spread
from posattn.measure.spread import mean_std, mean_std_text
from posattn.page import GridMaps, Lines, Section, Table
from posattn.recipes.sweep import sweep
from posattn.records import CHECKPOINTS, RunFolder

ORIGINAL, POSITIONAL = "ViT", "positional ViT"


@dataclass(frozen=True)
class ImagesConfig:
    """Two models of one size, trained alike on one data set."""

    data: str = "digits"
    """A name of `posattn list data`, or the path of a folder or a parquet file"""
    data_dir: Path | None = None
    """Where the files of a named set are"""
    original: str = "vit_tiny_patch16_224"
    """A timm model"""
    positional: str = "vit_posattn_tiny_patch16_224"
    """A name of `posattn list models`"""
    patch_size: int = 2
    embed_dim: int = 64
    depth: int = 4
    num_heads: int = 4
    seeds: int = 3
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=30, batch_size=64, lr=4e-3, warmup_epochs=3.0)
    )
    speed_rounds: int = 30
    """Turns of the interleaved timing of inference"""

    @property
    def models(self) -> dict[str, str]:
        """The timm name of each model."""
        return {ORIGINAL: self.original, POSITIONAL: self.positional}


def compare_on_images(
    config: ImagesConfig, seed: int, run: RunFolder, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train each model with each seed, a thread each. Returns the numbers and, apart from them, the timings."""
    test_set = load_images(config.data, "test", config.data_dir)
    settings = {
        f"{name}/{seed + index}": (config, name, seed + index, run.path)
        for index in range(config.seeds)
        for name in config.models
    }
    done = sweep("images", settings, train_one, run, progress)
    runs = {name: [one for key, one in done.items() if key.split("/")[0] == name] for name in config.models}
    models = {name: load_trained(config, name, seed, test_set, run) for name in config.models}
    speed = run.unit("images/speed", lambda: throughput(models, test_set, config.speed_rounds))
    run.save_tensors("attention", {"maps": models[POSITIONAL].attention_maps().detach().flatten(0, 1)})
    seconds = {name: [one["seconds"] for one in ones] for name, ones in runs.items()}
    return gather(runs, models), {"training_seconds": seconds, "images_per_second": speed}


def check_images(config: ImagesConfig) -> None:
    """Raise, before anything is trained, what ``compare_on_images`` would raise of data and models."""
    test_set = load_images(config.data, "test", config.data_dir)
    for name in config.models:
        build(config, name, 0, test_set)


def build(config: ImagesConfig, name: str, seed: int, images: ImageSet) -> nn.Module:
    """The timm model at the size of the config, at the random start of the seed."""
    channels, height, width = images.shape
    for side, pixels in (("height", height), ("width", width)):
        checks.divides("patch_size", config.patch_size, f"image {side}", pixels)
    checks.divides("num_heads", config.num_heads, "embed_dim", config.embed_dim)
    torch.manual_seed(seed)
    return timm.create_model(
        known_model(config.models[name]),
        img_size=(height, width),
        patch_size=config.patch_size,
        in_chans=channels,
        num_classes=images.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
    )


def known_model(name: str) -> str:
    """``name`` if timm knows it, else ValueError listing this package's models."""
    if timm.is_model(name):
        return name
    ours = ", ".join(timm.list_models("vit_posattn_*"))
    raise ValueError(f"unknown model {name!r}; known: {ours}, and every model of timm.list_models()")


def train_one(config: ImagesConfig, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one model into a run folder; test accuracy after each epoch, and the seconds that training took."""
    run, unit = RunFolder(folder), weights_name(name, seed)
    train_set, test_set = (load_images(config.data, split, config.data_dir) for split in ("train", "test"))
    model = build(config, name, seed, test_set)
    # an interrupted training goes on from its checkpoint: what was measured before it is in the journal
    accuracy = {row["step"]: row["accuracy"] for row in run.events(unit)}
    settings = replace(config.train, seed=seed)
    for record in train(model, train_set, settings, checkpoints=folder / CHECKPOINTS / unit):
        if record.end_of_epoch:
            accuracy[record.step] = evaluate(record.model, test_set)
            run.log(unit, step=record.step, loss=record.loss, accuracy=accuracy[record.step])
    run.save_tensors(unit, model.state_dict())
    return {"accuracy": [accuracy[step] for step in sorted(accuracy)], "seconds": record.seconds}


def weights_name(name: str, seed: int) -> str:
    """The file of a trained model."""
    return f"images-{name.replace(' ', '-')}-{seed}"


def load_trained(config: ImagesConfig, name: str, seed: int, images: ImageSet, run: RunFolder) -> Any:
    """The trained model of the first seed, in evaluation mode."""
    model = build(config, name, seed, images)
    model.load_state_dict(run.load_tensors(weights_name(name, seed)))
    return model.eval()


@torch.inference_mode()
def throughput(models: dict[str, nn.Module], images: ImageSet, rounds: int) -> dict[str, list[float]]:
    """Images a second in inference, the models taking turns: median and quartiles."""
    pixels: Tensor = to_float(images.images)
    works = {name: partial(model, pixels) for name, model in models.items()}
    seconds = interleaved(works, rounds)
    return {name: list(spread([len(pixels) / s for s in each])) for name, each in seconds.items()}


def gather(runs: dict[str, list[dict[str, Any]]], models: dict[str, Any]) -> dict[str, Any]:
    """The numbers of act three."""
    by_epoch = {
        name: list(zip(*(one["accuracy"] for one in ones), strict=True)) for name, ones in runs.items()
    }
    layers, heads, _, _ = models[POSITIONAL].attention_maps().shape
    return {
        "epoch": list(range(1, 1 + len(by_epoch[ORIGINAL]))),
        "mean_accuracy": {name: [mean_std(at)[0] for at in each] for name, each in by_epoch.items()},
        "final_accuracy": {name: each[-1] for name, each in by_epoch.items()},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "grid": list(models[POSITIONAL].patch_embed.grid_size),
        "heads": [f"layer {i // heads + 1}, head {i % heads + 1}" for i in range(layers * heads)],
    }


def images_section(config: ImagesConfig, numbers: dict[str, Any], timing: dict[str, Any]) -> Section:
    """What act three shows."""
    final, seconds, speed = numbers["final_accuracy"], timing["training_seconds"], timing["images_per_second"]
    percent = {name: mean_std_text(values, 1, 100) for name, values in final.items()}
    count, ratio = len(final[ORIGINAL]), speed[POSITIONAL][0] / speed[ORIGINAL][0]
    claim = (
        "On real images a ViT whose attention depends on positions alone does about as well as the original. "
        f"Here it reached {percent[POSITIONAL]} % against {percent[ORIGINAL]} % on {config.data}, "
        f"at {ratio:.2f} times the original's inference throughput."
    )
    rows = [
        [
            name,
            percent[name],
            f"{numbers['parameters'][name]:,}",
            mean_std_text(seconds[name], 1),
            f"{speed[name][0]:,.0f} ({speed[name][1]:,.0f} to {speed[name][2]:,.0f})",
        ]
        for name in final
    ]
    columns = ["model", "test accuracy, %", "parameters", "training, s", "inference, images/s"]
    return Section(
        "Real images",
        claim,
        [
            Table(
                f"Two models of one size, trained alike on {config.data}",
                columns,
                rows,
                caption=f"Mean ± std over {count} seeds, on the test split. Trainings share the machine, "
                "a thread each; inference: median and quartiles, the models taking turns.",
            ),
            Lines(
                "Test accuracy over training",
                "images.epoch",
                {name: f"images.mean_accuracy.{name}" for name in final},
                x_label="epoch",
                y_label="test accuracy",
                caption=f"Mean over {count} seeds.",
            ),
            GridMaps(
                "Learned positional attention over the image grid",
                "attention:maps",
                tuple(numbers["grid"]),
                numbers["heads"],
                caption="Each tile is one query patch, at its place in the image; within it, where that patch looks.",
            ),
        ],
    )

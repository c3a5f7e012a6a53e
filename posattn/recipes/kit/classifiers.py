"""Classifiers on images: the sets they are trained on, building, training and loading them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import PartialState
from jaxtyping import Int
from rich.progress import Progress
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.recipes.kit.settings import ARCHITECTURES, ImageTraining, ModelSize
from posattn.runs.device import choose_precision, refuse_mixed_precision
from posattn.runs.environment import environment, note_environment
from posattn.runs.folder import CHECKPOINTS, RunFolder
from posattn.runs.sweep import sweep
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.data.folders import check_splits
from posattn.vision.data.images import ImageSet, shuffle_patches, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.models.mimetic import init_mimetic
from posattn.vision.training.allocator import keep_freed_memory
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.logs import TrainingLog, follow_trainings
from posattn.vision.training.loop import TrainRecord, evaluate, train
from posattn.vision.training.precision import refuse_wrong_convolutions
from posattn.vision.training.weights import load_weights

AnyImages = ImageSet | ImageStream


@lru_cache(maxsize=4)
def read(data: MemoryDataConfig, split: str) -> AnyImages:
    """A split as it is stored. A process that trains several models decodes it once."""
    return data.load(split)


def load_split(config: ImageTraining, split: str) -> Any:
    """The images of ``train`` (those that are trained on) or ``test``: an ImageSet, or an ImageStream.

    Raises ValueError if ``train_images`` is more than there are, or is given for a stream.
    """
    images, count = read(config.data, split), config.train_images
    if count is None or (split != "train" and not isinstance(images, ImageStream)):
        return images
    if isinstance(images, ImageStream):
        raise ValueError(f"{config.data.data} is streamed: train_images cannot be {count}")
    if count > len(images):
        raise ValueError(f"train_images must be at most {len(images)}, got {count}")
    order = torch.randperm(len(images), generator=Generator().manual_seed(0))
    return images.select(order[:count].sort().values)


def load_splits(config: ImageTraining) -> tuple[Any, Any]:
    """The images that are trained on, and those that are tested on."""
    return load_split(config, "train"), load_split(config, "test")


def patch_permutation(images: ImageSet, patch_size: int, seed: int) -> Int[Tensor, " D"]:
    """A random order of the patches of the images, for ``shuffle_patches``; patch size 1: of the pixels."""
    _, height, width = images.shape
    rows = checks.divides("patch_size", patch_size, "image height", height)
    count = rows * checks.divides("patch_size", patch_size, "image width", width)
    return torch.randperm(count, generator=Generator().manual_seed(seed))


def rearranged(images: ImageSet, patch_size: int, permutation: Int[Tensor, " D"]) -> ImageSet:
    """The images with their patches moved by one permutation."""
    return replace(images, images=shuffle_patches(images.images, patch_size, permutation))


def build(size: ModelSize, name: str, seed: int, images: AnyImages, **options: Any) -> nn.Module:
    """A new timm model for the images, initialised with the seed.

    ``size`` is that of ViTs; the ResNet has its own. ``options`` are passed to ``timm.create_model``.
    Raises ValueError if the patch size does not divide the images, the heads do not divide the width, or the model does
    not take the size or the shape of the images.
    """
    architecture, (channels, height, width) = ARCHITECTURES[name], images.shape
    if architecture.square and height != width:
        raise ValueError(f"{name} takes square images only, got {height} x {width}")
    options = {"in_chans": channels, "num_classes": images.num_classes, **architecture.options, **options}
    if architecture.sized is not None:
        for side, pixels in (("height", height), ("width", width)):
            checks.divides("patch_size", size.patch_size, f"image {side}", pixels)
        checks.divides("num_heads", size.num_heads, "embed_dim", size.embed_dim)
        options |= {"img_size": (height, width), **architecture.sized(size)}
    torch.manual_seed(seed)
    model: Any = timm.create_model(architecture.model, **options)
    return init_mimetic(model) if architecture.mimetic else model


def check_models(config: ImageTraining, names: Sequence[str]) -> None:
    """Raise, before anything is trained, what the images, the models or their first step would raise."""
    train_set, test_set = load_splits(config)
    if (size := config.train.batch_size) > (count := len(train_set)):
        raise ValueError(f"train.batch_size must be at most {count}, the training images, got {size}")
    device = PartialState().device
    dtype = choose_precision(config.train.precision, str(device)).dtype
    for name in names:
        model = build(config.size, name, 0, test_set).eval()
        with refuse_wrong_convolutions(model, device.type, dtype):
            model(torch.zeros(1, *test_set.shape))


def train_grid(
    name: str,
    compute: Callable[..., Any],
    config: ImageTraining,
    cells: Iterable[tuple[Any, ...]],
    run: RunFolder,
    progress: Progress,
) -> dict[tuple[Any, ...], Any]:
    """``compute(config, *cell, folder)`` for every cell: a sweep, with a progress bar for each training in it.

    On a GPU it trains one model after the other, unless ``--jobs`` is given.
    """
    on_gpu = PartialState().device.type != "cpu"
    keys = {"/".join(map(str, cell)): cell for cell in cells}
    arguments = {key: (config, *cell, run.path) for key, cell in keys.items()}
    check_data(config.data, run)
    with follow_trainings(run, progress, config.train):
        done = sweep(name, arguments, compute, run, progress, on_gpu)
    refuse_mixed_precision(run.precisions())  # of workers with other devices
    return {cell: done[key] for key, cell in keys.items()}


def check_data(data: MemoryDataConfig, run: RunFolder) -> None:
    """Raise ValueError if a set is not what it was at an earlier start, has one class, or splits of other classes or
    sizes of images."""
    train, test = (read(data, split) for split in ("train", "test"))
    check_splits(data.data, train.classes, test.classes)
    if train.shape != test.shape:
        raise ValueError(
            f"{data.data} has images of shape {train.shape} to train on and of {test.shape} to test on; "
            "give an image_size to resize them to"
        )
    for split, images in (("train", train), ("test", test)):
        if images.num_classes < 2:
            raise ValueError(f"{data.data} has a single class, {images.classes[0]!r}: nothing to learn")
        run.same_data(f"{split} split of {data.data}", images.digest)


def train_one(
    config: ImageTraining, name: str, seed: int, folder: Path, tensorboard: bool = False
) -> dict[str, Any]:
    """Build and train one model: what ``fit`` returns."""
    train_set, test_set = load_splits(config)
    model = build(config.size, name, seed, test_set)
    unit = weights_name(name, seed)
    return fit(model, train_set, test_set, config.train, seed, folder, unit, tensorboard=tensorboard)


def fit(
    model: nn.Module,
    train_set: AnyImages,
    test_set: AnyImages,
    config: TrainConfig,
    seed: int,
    folder: Path,
    unit: str,
    *,
    after: Sequence[int] | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train a model and save its weights as ``unit``; an interrupted training continues from its checkpoint.

    It is tested ``after`` these epochs, or (None) after every one, in the precision of the training. Returns
    ``accuracy`` and ``elapsed`` (seconds of training so far, without tests) at each test, ``seconds`` of the whole
    training, ``clock`` (of these seconds: ``CPU`` for one thread on a CPU, so that other work on a shared machine does
    not count; else ``wall``, and for a stream, which other processes decode), and ``precision``, float32 or bfloat16.

    Raises ValueError if the finished trainings of the run are in another precision, as if on another device.
    Raises ValueError if a test is lost: its line is damaged and the checkpoint, of an older version, does not keep it.
    """
    run, kept = RunFolder(folder), folder / CHECKPOINTS / unit
    check_precision(run, unit, config)
    note_environment(run, environment())
    if PartialState().device.type == "cpu":
        keep_freed_memory()
    epochs = range(1, config.epochs + 1) if after is None else after
    with TrainingLog(run, unit, tensorboard) as log:
        for record in train(model, train_set, config, seed=seed, checkpoints=kept, notes=log.notes):
            tested = record.end_of_epoch and round(record.epoch) in epochs
            log.write(record, **({"accuracy": test(record, test_set)} if tested else {}))
            if record.end_of_epoch:
                tests = tests_of(log.rows, [epoch for epoch in epochs if epoch <= round(record.epoch)], kept)
    run.save_tensors(unit, model.state_dict())
    one_thread = next(model.parameters()).device.type == "cpu" and torch.get_num_threads() == 1
    alone = one_thread and not isinstance(train_set, ImageStream)
    clock = "cpu_seconds" if alone else "seconds"
    return {
        "accuracy": [row["accuracy"] for row in tests],
        "elapsed": [row[clock] for row in tests],
        "seconds": record.scalars[clock],
        "clock": "CPU" if alone else "wall",
        "precision": record.precision,
    }


def check_precision(run: RunFolder, unit: str, config: TrainConfig) -> None:
    """Raise ValueError if this device would train ``unit`` in another precision than the run's finished trainings."""
    chosen = choose_precision(config.precision, str(PartialState().device)).dtype
    refuse_mixed_precision(run.precisions() | {unit: chosen})


def tests_of(rows: Sequence[dict[str, Any]], epochs: Sequence[int], kept: Path) -> list[dict[str, Any]]:
    """The rows of a log with the tests after these epochs. ValueError if one is missing; ``kept``: the checkpoints."""
    found = {round(row["epoch"]): row for row in rows if "accuracy" in row}
    if lost := [epoch for epoch in epochs if epoch not in found]:
        raise ValueError(
            f"metrics.jsonl has lost the test of {kept.name} after epoch {lost[0]}; remove {kept} to train it anew"
        )
    return [found[epoch] for epoch in epochs]


def test(record: TrainRecord, test_set: AnyImages) -> float:
    """The accuracy of a model in training, computed as it is trained: precision, compilation, processes."""
    return evaluate(record.model, test_set, precision=record.precision, compile=record.compiled, divide=True)


def weights_name(name: str, seed: int) -> str:
    """The file of a trained model in the run folder, without its suffix."""
    return f"images-{name.replace(' ', '-')}-{seed}"


def load_trained(
    size: ModelSize, name: str, seed: int, images: AnyImages, run: RunFolder, unit: str = "", **options: Any
) -> Any:
    """A trained model in evaluation mode; ``unit`` and ``options`` as in ``fit`` and ``build``."""
    model = build(size, name, seed, images, **options)
    unit = unit or weights_name(name, seed)
    load_weights(model, run.load_tensors(unit), run.path / f"{unit}.safetensors")
    return model.eval()


def first_images(images: AnyImages, count: int) -> Tensor:
    """The first images of a set, at most ``count``, as models take them."""
    held, _ = next(iter(images.batches([torch.arange(min(count, len(images)))])))
    return to_float(held)

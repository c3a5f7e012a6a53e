"""Training and testing a classifier on images, in memory or streamed.

One loop on accelerate for one process or many, with timm's optimizers and schedules. It yields
records and prints nothing: progress bars, logs and measurements are up to the caller.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from posattn import checks
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.resume import restore, save
from posattn.vision.training.signals import StopSignal
from posattn.vision.training.state import Training, TrainRecord, Transform, memory_advice

__all__ = ["TrainRecord", "evaluate", "train"]


def train(
    model: nn.Module,
    train_set: ImageSet | ImageStream,
    config: TrainConfig,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    transform: Transform | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[TrainRecord]:
    """Train ``model`` in place and yield records; with ``ema_decay`` the model ends with the averaged weights.

    The order of the images, augmentation and every draw inside the model are functions of (seed, process,
    step), so a resumed run equals an uninterrupted one (bit for bit on a CPU). They come from
    torch's global generators: train one model at a time in a process, not one in each of several threads.
    A finished run yields its last record again.

    Args:
        model: a timm classifier with at least as many outputs as the set has classes.
        train_set: the images; those in memory are moved to the accelerator's device.
        config: the recipe.
        seed: of the order of the images, augmentation and dropout.
        checkpoints: a folder for the last two checkpoints; training continues from the newest. With
            it, SIGTERM and SIGHUP are answered by a checkpoint and SystemExit(128 + number), SIGINT by a checkpoint
            and KeyboardInterrupt; a handler that was set before is called after the checkpoint instead.
        transform: applied to every augmented batch of float images.
        accelerator: accelerate's object, if the program has its own.

    Raises:
        ValueError: model, set and config do not fit each other, or the checkpoints are of another run or all
            damaged.
        FloatingPointError: the loss is not finite: the step is named, the last checkpoint is from before it.
        MemoryError: out of memory: says what to lower.
    """
    run = Training(
        model, train_set, config, checks.natural("seed", seed), transform, accelerator or Accelerator()
    )
    if checkpoints is not None:
        restore(run, checkpoints)
    return steps(run, checkpoints)


def steps(run: Training, checkpoints: Path | None) -> Iterator[TrainRecord]:
    """The rest of a training. A checkpoint is written only after its record was used, so none is ever lost."""
    run.clock = time.perf_counter()
    if run.step == run.steps and run.last is not None:
        yield run.last
    with StopSignal(active=checkpoints is not None) as stop:
        while run.step < run.steps:
            run.update()
            if run.record_due:
                yield run.record()
                run.clock = time.perf_counter()
            stopping = run.agree(bool(stop.received))
            if checkpoints is not None and (stopping or run.checkpoint_due):
                save(run, checkpoints)
            if stopping:
                stop.stop()
        if stop.received:
            stop.stop()
    run.finish()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    image_set: ImageSet | ImageStream,
    *,
    batch_size: int = 512,
    transform: Transform | None = None,
) -> float:
    """Top-1 accuracy in [0, 1], in evaluation mode on the model's device; the model's mode is restored.

    Raises:
        MemoryError: out of memory: says what to lower.
    """
    checks.positive_int("batch_size", batch_size)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    correct = 0
    try:
        with memory_advice(f"batch_size {batch_size} in evaluation: lower batch_size"):
            for images, labels in image_set.batches(torch.arange(len(image_set)).split(batch_size)):
                pixels = to_float(images.to(device))
                logits = model(pixels if transform is None else transform(pixels))
                correct += int((logits.argmax(-1) == labels.to(device)).sum())
    finally:
        model.train(training)
    return correct / len(image_set)

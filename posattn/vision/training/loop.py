"""Training and testing a classifier on images, in memory or streamed.

One loop on accelerate for one process or many, with timm's optimizers and schedules. It yields
records and prints nothing: progress bars, logs and measurements are up to the caller.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from posattn import checks
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.modes import evaluating
from posattn.vision.training.compiling import compiled
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.memory import memory_advice
from posattn.vision.training.precision import refuse_wrong_convolutions
from posattn.vision.training.record import TrainRecord
from posattn.vision.training.resume import restore, save
from posattn.vision.training.signals import StopSignal
from posattn.vision.training.state import Training, Transform

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
    notes: list[Any] | None = None,
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
        notes: JSON values that the caller adds to, as ``TrainingLog.notes``. Each checkpoint keeps them; where training
            continues from one, the list is first set to what it was then.

    Raises:
        ValueError: model, set and config do not fit each other, or the checkpoints are of another run or all
            damaged.
        FloatingPointError: the loss is not finite: the step is named, the last checkpoint is from before it.
        MemoryError: out of memory: says what to lower.
    """
    run = Training(
        model, train_set, config, checks.natural("seed", seed), transform, accelerator or Accelerator()
    )
    run.notes = run.notes if notes is None else notes
    if checkpoints is not None:
        restore(run, checkpoints)
    return steps(run, checkpoints)


def steps(run: Training, checkpoints: Path | None) -> Iterator[TrainRecord]:
    """The rest of a training. A checkpoint is written only after its record was used, so none is ever lost."""
    run.start_clocks(*run.unrecorded)
    if run.step == run.steps and run.last is not None:
        yield run.last
    refusal = refuse_wrong_convolutions(run.model, run.device.type, run.dtype)
    with refusal, StopSignal(active=checkpoints is not None) as stop:
        stopping = False
        try:
            while run.step < run.steps and not stopping:
                run.update()
                if run.record_due:
                    yield run.record()
                    run.start_clocks()
                stopping = run.agree(bool(stop.received))
                if checkpoints is not None and (stopping or run.checkpoint_due):
                    save(run, checkpoints)
        finally:
            run.feed = None  # its workers end by themselves; at exit they are killed, which torch reports as a failure
        if stopping or stop.received:
            stop.stop()
    run.finish()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    image_set: ImageSet | ImageStream,
    *,
    batch_size: int = 512,
    transform: Transform | None = None,
    precision: str = "float32",
    compile: bool = False,
    divide: bool = False,
) -> float:
    """Top-1 accuracy in [0, 1], in evaluation mode on the model's device; the model's mode is restored. NaN is wrong.

    Args:
        model: a classifier, with at least as many outputs as the set has classes.
        image_set: the images.
        batch_size: at most so many images at once.
        transform: applied to every batch of float images.
        precision: ``float32``, or ``bfloat16`` for autocast.
        compile: with torch.compile, which pays if it is called often.
        divide: divide the images among the processes of a distributed run, which all call this and all get the accuracy
            on the whole set.

    Raises:
        ValueError: ``batch_size`` or ``precision`` is out of range, or the outputs are no (n, K) logits of that many
            classes.
        MemoryError: out of memory: says what to lower.
    """
    checks.positive_int("batch_size", batch_size)
    checks.known("precision", precision, ("float32", "bfloat16"))
    device = next(model.parameters()).device
    rank, ranks = (PartialState().process_index, PartialState().num_processes) if divide else (0, 1)
    most = min(batch_size, math.ceil(len(image_set) / ranks))
    parts = equal_parts(len(image_set), most)[rank::ranks]
    run = compiled(model) if compile else model
    correct = torch.zeros((), dtype=torch.long, device=device)
    with (
        evaluating(model),
        memory_advice(f"batch_size {batch_size} in evaluation: lower batch_size"),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        for part, (images, labels) in zip(parts, image_set.batches(parts), strict=True):
            pixels = to_float(images.to(device))
            logits = run(pixels if transform is None else transform(pixels))
            if logits.ndim != 2 or logits.shape[1] < image_set.num_classes:
                raise ValueError(
                    f"the outputs must be (n, K) with K of at least {image_set.num_classes}, the classes of "
                    f"{image_set.name}, got {tuple(logits.shape)}"
                )
            correct += (predicted(logits) == labels.to(device))[: part.unique().numel()].sum()
    return int(reduce(correct, "sum") if divide else correct) / len(image_set)


def predicted(logits: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """The class with the largest logit; -1 where one is NaN, as the largest of NaNs is of no class."""
    return logits.argmax(-1).where(~logits.isnan().any(-1), -1)


def equal_parts(count: int, most: int) -> list[Int[Tensor, " size"]]:
    """The numbers below ``count`` in parts of one size, at most ``most``; the last number is repeated to fill the last.

    One size is what a compiled model is compiled for.
    """
    number = math.ceil(count / most)
    size = math.ceil(count / number)
    return list(torch.arange(number * size).clamp(max=count - 1).split(size))

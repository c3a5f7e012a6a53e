"""Throughput of data loading, side by side with the images per second that training steps consume."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.bench.models import DTYPES, synchronize, training_step
from posattn.bench.timing import interleaved
from posattn.runs.device import choose_precision
from posattn.vision.data.augment import derived_seed, make_mixer
from posattn.vision.data.images import ImageSet
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.inputs import augmented_together, epoch_batches, prepare


class Work(NamedTuple):
    """A function to time, and the number of images that a call handles."""

    call: Callable[[], Any]
    images: int


def rates(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Images per second of each work in each of ``rounds`` rounds.

    Quick works are repeated until they take about as long as the slowest one: on a shared machine, the median of short
    timings would be too good. torch's global random state is restored.

    Raises ValueError if ``rounds`` is below 1.
    """
    checks.positive_int("rounds", rounds)
    calls = {name: work.call for name, work in works.items()}
    with torch.random.fork_rng():
        once = {name: second for name, (second,) in interleaved(calls, 1).items()}
        times = {name: max(1, round(max(once.values()) / second)) for name, second in once.items()}
        turns = {name: partial(repeat, call, times[name]) for name, call in calls.items()}
        seconds = interleaved(turns, rounds)
    return {
        name: [times[name] * works[name].images / second for second in each] for name, each in seconds.items()
    }


def repeat(call: Callable[[], Any], times: int) -> None:
    """Call ``call`` ``times`` times."""
    for _ in range(times):
        call()


def memory_loading(image_set: ImageSet, config: TrainConfig, seed: int = 0) -> Work:
    """Training batches from memory, on the set's device: one, or those that a policy is applied to together.

    Raises ValueError if the set is smaller than a batch.
    """
    size, device = config.batch_size, image_set.images.device
    if len(image_set) < size:
        raise ValueError(f"batch_size must be at most {len(image_set)}, the images, got {size}")
    batches, number = endless(image_set, config, seed), batches_at_once(image_set, config)

    def load() -> None:
        for _ in range(number):
            next(batches)
        synchronize(device)

    return Work(load, number * size)


def batches_at_once(image_set: ImageSet, config: TrainConfig) -> int:
    """How many batches of an epoch are augmented together."""
    together = augmented_together(image_set, config.batch_size, config.policy)
    return min(together, len(image_set) // config.batch_size)


def endless(image_set: ImageSet, config: TrainConfig, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches, drawn, augmented and mixed as in ``posattn.vision.training.loop.train``.

    An epoch has whole groups of the batches that a policy is applied to together.
    """
    mixer = make_mixer(config.mixup, config.cutmix, image_set.num_classes, config.mix_prob)
    unit = batches_at_once(image_set, config) * config.batch_size
    whole = len(image_set) // unit * unit
    for epoch in count():
        draw = Generator().manual_seed(derived_seed(seed, epoch))
        order = torch.randperm(len(image_set), generator=draw)[:whole].to(image_set.images.device)
        parts = order.split(config.batch_size)
        draws = partial(derived_seed, seed, epoch)
        for images, labels in epoch_batches(image_set, parts, config.policy, seed, draws):
            yield prepare(images, labels, config, mixer)


def stream_loading(stream: ImageStream, config: TrainConfig, num_batches: int, seed: int = 0) -> Work:
    """``num_batches`` training batches of a stream's first pictures, including the start of its workers.

    Nothing is decoded ahead while other works are timed. Raises ValueError if the stream has fewer pictures.
    """
    total = checks.positive_int("num_batches", num_batches) * config.batch_size
    if len(stream) < total:
        raise ValueError(f"num_batches x batch_size must be at most {len(stream)}, the pictures, got {total}")
    mixer = make_mixer(config.mixup, config.cutmix, stream.num_classes, config.mix_prob)

    def load() -> None:
        parts = torch.arange(total).split(config.batch_size)
        for images, labels in epoch_batches(stream, parts, config.policy, seed, partial(derived_seed, seed)):
            prepare(images, labels, config, mixer)
        synchronize(torch.device(stream.device))

    return Work(load, total)


def consumption(model: nn.Module, shape: tuple[int, int, int], config: TrainConfig) -> Work:
    """A training step of the model alone, on a batch of (c, H, W) images already on its device."""
    pixels = torch.zeros(config.batch_size, *shape, device=next(model.parameters()).device)
    dtype = DTYPES[choose_precision(config.precision, str(pixels.device)).dtype]
    return Work(training_step(model, pixels, dtype), config.batch_size)

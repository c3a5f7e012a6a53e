"""What an inspection costs beside plain fused inference of the same images."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posattn.bench.timing import Spread, spread
from posattn.vision.inspect.inspection import inspect_model


class InspectionCost(NamedTuple):
    """CPU seconds of all threads per image, and those of the final measures, which do not grow with the images."""

    plain: Spread
    inspect: Spread
    ratio: Spread  # inspect over plain, by round
    final: Spread


def inspection_cost(model: nn.Module, images: Tensor, rounds: int = 3, **options: Any) -> InspectionCost:
    """Time a model over images, plain and inspected by turns, after one warm-up round.

    CPU time is counted, so that a machine that is shared with other work gives the same figures.

    Args:
        model: see ``inspect_model``.
        images: (n, c, H, W) on the CPU.
        rounds: at least two.
        options: of ``inspect_model``. Plain inference takes the batch size that the inspection chooses.
    """
    seconds: dict[str, list[float]] = {"plain": [], "inspect": [], "final": []}
    batch_size = inspect_model(model, images[:2], **options).plan.batch_size
    final = Final()
    for _ in range(rounds + 1):
        seconds["plain"].append(cpu_seconds(lambda: infer(model, images, batch_size)))
        total = cpu_seconds(lambda: inspect_model(model, images, announce=final.start, **options))
        seconds["final"].append(final.seconds)
        seconds["inspect"].append(total - final.seconds)
    plain, inspect, last = (values[1:] for values in seconds.values())
    ratios = [many / few for few, many in zip(plain, inspect, strict=True)]
    per_image = (spread([value / len(images) for value in values]) for values in (plain, inspect))
    return InspectionCost(*per_image, spread(ratios), spread(last))


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process in a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.inference_mode()
def infer(model: Any, images: Tensor, batch_size: int) -> None:
    """Plain inference, batch by batch."""
    for batch in images.split(batch_size):
        getattr(model, "forward_features", model)(batch)

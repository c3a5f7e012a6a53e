"""The cost of an inspection relative to fused inference of the same images."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posattn.bench.timing import Quartiles, quartiles
from posattn.vision.inspect.inspection import inspect_model

FEW = 4  # images: their inspection is nearly all fixed cost


class InspectionCost(NamedTuple):
    """CPU seconds per image over all threads; ``fixed`` is the part of an inspection independent of the images."""

    plain: Quartiles
    inspect: Quartiles
    ratio: Quartiles  # inspection over plain inference, by round
    fixed: Quartiles


def inspection_cost(model: nn.Module, images: Tensor, rounds: int = 3, **options: Any) -> InspectionCost:
    """Time plain inference and inspection of the same images in alternation, after one warm-up round.

    CPU time is least disturbed by other work on the machine. The fixed part is measured by also inspecting a few
    images.

    Args:
        model: see ``inspect_model``.
        images: (n, c, H, W) on the CPU, n well above 4.
        rounds: at least two.
        options: of ``inspect_model``. Plain inference takes the batch size that the inspection chooses.
    """
    n, rows = len(images), []
    for _ in range(rounds + 1):
        few = cpu_seconds(lambda: inspect_model(model, images[:FEW], **options))[0]
        many, inspection = cpu_seconds(lambda: inspect_model(model, images, **options))
        plain, _ = cpu_seconds(lambda size=inspection.plan.batch_size: infer(model, images, size))  # type: ignore[misc]
        per_image = (many - few) / (n - FEW)
        rows.append((plain / n, per_image, per_image / (plain / n), few - FEW * per_image))
    return InspectionCost(*(quartiles(list(values)) for values in zip(*rows[1:], strict=True)))


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process in a call, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


@torch.inference_mode()
def infer(model: Any, images: Tensor, batch_size: int) -> None:
    """Plain inference, batch by batch."""
    for batch in images.split(batch_size):
        getattr(model, "forward_features", model)(batch)

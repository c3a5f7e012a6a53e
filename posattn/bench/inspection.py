"""What an inspection costs beside plain fused inference of the same images."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posattn.bench.timing import Quartiles, quartiles
from posattn.vision.inspect.inspection import inspect_model

FEW = 4  # images: their inspection is nearly all fixed cost


class InspectionCost(NamedTuple):
    """CPU seconds, of all threads, per image; ``fixed`` are those of an inspection that do not grow with the images."""

    plain: Quartiles
    inspect: Quartiles
    ratio: Quartiles  # inspect over plain, round by round
    fixed: Quartiles


def inspection_cost(model: nn.Module, images: Tensor, rounds: int = 3, **options: Any) -> InspectionCost:
    """Time a model over images, plain and inspected by turns, after one warm-up round.

    CPU time is counted, so that other work on the machine disturbs it least. The fixed part is told by inspecting
    few images too.

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

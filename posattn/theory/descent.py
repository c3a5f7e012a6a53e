"""Plain gradient descent on a simplified ViT, as the paper trains it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from posattn import checks
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import Batch


class Step(NamedTuple):
    """One update of a gradient run."""

    updates: int  # made so far, this one included
    loss: float  # on the batch of this update, before it


def descend(
    model: SimplifiedViT,
    sample: Callable[[], Batch],
    steps: int,
    rate: float,
    *,
    value_rate: float | None = None,
    normalize: bool = False,
) -> Iterator[Step]:
    """Gradient descent on the logistic loss of the batches that ``sample`` draws; yields after each update.

    Nothing happens until the iterator is asked. A_ii = σ_A never moves.

    Args:
        model: trained in place.
        sample: draws the batch of each step; one that returns the same batch gives full-batch descent.
        steps: number of updates.
        rate: η, above 0.
        value_rate: the rate of v where it is not η, as with ``normalize``: A has D² entries and v has d.
        normalize: scale the gradient of each parameter to unit norm, which crosses the long plateau quickly.

    Raises:
        TypeError, ValueError: ``steps`` or ``rate`` is out of range.
        FloatingPointError: the loss or its gradient is not finite; the model holds the last parameters at
            which both were.
    """

    def gradient() -> float:
        batch = sample()
        loss = logistic_loss(model(batch.patches), batch.labels)
        loss.backward()
        return loss.item()

    return updates(parameter_groups(model, value_rate or rate), gradient, steps, rate, normalize)


def parameter_groups(model: SimplifiedViT, value_rate: float) -> list[dict[str, Any]]:
    """The optimizer's groups: what makes A, and v at a rate of its own."""
    others = [p for p in model.parameters() if p is not model.value]
    return [{"params": others}, {"params": [model.value], "lr": value_rate}]


def updates(
    parameters: Iterable[Any],
    gradient: Callable[[], float],
    steps: int,
    rate: float,
    normalize: bool = False,
    decay: bool = False,
) -> Iterator[Step]:
    """Updates of ``parameters`` (or an optimizer's groups of them) by ``gradient``.

    ``gradient`` adds to their ``.grad`` and returns the loss. Where rates ``decay``, they fall in a straight line, to
    1/steps of what they were. Other arguments and errors are those of ``descend``.
    """
    steps, rate = checks.positive_int("steps", steps), checks.finite("rate", rate, 0.0)
    if rate == 0:
        raise ValueError(f"rate must be above 0, got {rate}")
    return _updates(parameters, gradient, steps, rate, normalize, decay)


def _updates(
    groups: Iterable[Any],
    gradient: Callable[[], float],
    steps: int,
    rate: float,
    normalize: bool,
    decay: bool,
) -> Iterator[Step]:
    optimizer = torch.optim.SGD(groups, lr=rate)
    schedule = LinearLR(optimizer, 1.0, 1 / steps if decay else 1.0, total_iters=max(1, steps - 1))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    good = [p.detach().clone() for p in parameters]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = gradient()
        gradients = [p.grad for p in parameters if p.grad is not None]
        peaks = [torch.stack(torch.aminmax(g)).abs().amax() for g in gradients]
        if not (math.isfinite(loss) and all(peak.isfinite() for peak in peaks)):
            _copy(good, parameters)
            raise FloatingPointError(f"loss {loss} or gradient not finite at step {step}, rate {rate:g}")
        _copy(parameters, good)
        if normalize:
            for g, peak in zip(gradients, peaks, strict=True):
                _to_unit_norm(g, peak)
        optimizer.step()
        schedule.step()
        yield Step(step, loss)


def _to_unit_norm(gradient: Tensor, peak: Tensor) -> None:
    tiny = torch.finfo(gradient.dtype).tiny
    gradient /= peak.clamp_min(tiny)  # whose squares would underflow where the loss is almost 0
    gradient /= torch.linalg.vector_norm(gradient).clamp_min(tiny)


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)

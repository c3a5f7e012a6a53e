"""Plain gradient descent on a simplified ViT, as the paper trains it."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posattn import checks
from posattn.data.structured import Batch
from posattn.models.simplified import SimplifiedViT, logistic_loss


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

    others = [p for p in model.parameters() if p is not model.value]
    groups = [{"params": others}, {"params": [model.value], "lr": value_rate or rate}]
    return updates(groups, gradient, steps, rate, normalize)


def updates(
    parameters: Iterable[Any],
    gradient: Callable[[], float],
    steps: int,
    rate: float,
    normalize: bool = False,
) -> Iterator[Step]:
    """Updates of ``parameters`` (or an optimizer's groups of them) by ``gradient``.

    ``gradient`` adds to their ``.grad`` and returns the loss. Arguments and errors are those of ``descend``.
    """
    steps, rate = checks.positive_int("steps", steps), checks.finite("rate", rate, 0.0)
    if rate == 0:
        raise ValueError(f"rate must be above 0, got {rate}")
    return _updates(parameters, gradient, steps, rate, normalize)


def _updates(
    groups: Iterable[Any],
    gradient: Callable[[], float],
    steps: int,
    rate: float,
    normalize: bool,
) -> Iterator[Step]:
    optimizer = torch.optim.SGD(groups, lr=rate)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    good = [p.detach().clone() for p in parameters]
    for index in range(1, steps + 1):
        optimizer.zero_grad()
        loss = gradient()
        # in float64, for the squares of small gradients vanish in float32
        norms = [torch.linalg.vector_norm(p.grad.double()) for p in parameters if p.grad is not None]
        if not (math.isfinite(loss) and all(norm.isfinite() for norm in norms)):
            _copy(good, parameters)
            raise FloatingPointError(
                f"loss {loss} or its gradient is not finite at step {index}, rate {rate:g}"
            )
        _copy(parameters, good)
        if normalize:
            _to_unit_norm([p.grad for p in parameters if p.grad is not None], norms)
        optimizer.step()
        yield Step(index, loss)


def _to_unit_norm(gradients: list[Tensor], norms: list[Tensor]) -> None:
    for gradient, norm in zip(gradients, norms, strict=True):
        if norm > 0:
            gradient.copy_(gradient.double() / norm)


@torch.no_grad()
def _copy(sources: list, targets: list) -> None:  # type: ignore[type-arg]
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)

"""Measurements along the training of a simplified ViT, shared by the recipes of the theory."""

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from posattn import checks
from posattn.shapes import Maps, Scores
from posattn.structure.association import is_attention, patch_association
from posattn.structure.partition import Cover
from posattn.theory.accuracy import correct
from posattn.theory.descent import Loss, Step, value_parameters
from posattn.theory.protocols import Labelled, Model, Task
from posattn.theory.simplified import logistic_loss

History = dict[str, list[float]]


@torch.no_grad()
def describe(model: Model, task: Task, test: Labelled, loss: Loss = logistic_loss) -> dict[str, float]:
    """Loss and accuracy on ``test``, patch association, exact rows, attention inside the sets, cos(v, w*).

    Means over heads or classes if there are several. NaN: the attention inside the sets where S is not a
    distribution over patches, the cosine where the task has no feature or the model no value. Raises ValueError if
    sets overlap, for which association is not defined.
    """
    logits, attention = model(test.patches), model.attention()
    found = patch_association(held_scores(model), task.partition)
    mass = patch_association(attention, task.partition).mass if is_attention(attention).all() else torch.nan
    return {
        "loss": loss(logits, test.labels).item(),
        "accuracy": correct(logits, test.labels),
        "association": mean(found.top_c),
        "exact": mean(found.exact),
        "mass": mean(mass),
        "alignment": alignment(model, task),
    }


def mean(figure: float | Tensor) -> float:
    """The mean over heads."""
    return torch.as_tensor(figure).mean().item()


def alignment(model: Model, task: Task) -> float:
    """cos(v, w*), NaN without a v or a w* of its shape; for classes, w* is the sum of the features of each."""
    feature = getattr(task, "class_features", getattr(task, "feature", torch.empty(0)))
    values = value_parameters(model) if isinstance(model, nn.Module) else []
    cosines = [torch.cosine_similarity(v, feature, dim=0).mean() for v in values if v.shape == feature.shape]
    return torch.stack(cosines).mean().item() if cosines else torch.nan


def held_scores(model: Model) -> Maps:
    """The scores A with a held diagonal, under any parametrization; S for a model without scores."""
    scores = model.held_scores() if hasattr(model, "held_scores") else model.attention()
    return scores.detach().clone()


def association_of_others(scores: Scores, partition: Cover) -> float:
    """The share of each row's C - 1 largest entries off the diagonal that lie in the own set.

    Raises ValueError for sets of a single patch, which have no others.
    """
    if partition.set_size < 2:
        message = "association off the diagonal needs sets of at least two patches"
        raise ValueError(f"{message}, got {partition.set_size}")
    others = scores.detach().to(torch.double, copy=True)
    top_c = patch_association(others.fill_diagonal_(float(others.abs().max()) + 1), partition).top_c
    C = partition.set_size
    return float((C * top_c - 1) / (C - 1))


def chance_below_diagonal(partition: Cover) -> float:
    """The association of random scores below a larger diagonal."""
    return mean(patch_association(torch.eye(partition.num_patches), partition).chance)


def by_set(map_: Maps, partition: Cover) -> Maps:
    """The map with the patches of each set side by side."""
    return map_[..., partition.order, :][..., partition.order]


def track(
    training: Iterable[Step], steps: Iterable[int], measure: Callable[[Step], dict[str, float]]
) -> History:
    """Run a training to its end and collect ``measure`` after each of ``steps``.

    Args:
        training: an iterator of updates that has not started.
        steps: numbers of updates; at 0, the start, ``measure`` gets a step with NaN loss.
        measure: returns a dict with the same keys each time.

    Returns:
        One list per name, and the numbers of updates as ``step``.
    """
    wanted = {int(step) for step in steps}
    rows = [
        {"step": step.updates, **measure(step)}
        for step in chain([Step(0, math.nan)], training)
        if step.updates in wanted
    ]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def off_diagonal(model: Model, partition: Cover) -> Maps:
    """A off the diagonal, the patches of each set side by side, as a page shows it."""
    scores = held_scores(model)
    scores.diagonal(dim1=-2, dim2=-1).zero_()
    return by_set(scores, partition)


def evenly(steps: int, count: int) -> list[int]:
    """About ``count`` numbers of updates from 0 to ``steps``, both included."""
    return sorted({*range(0, steps, max(1, steps // checks.positive_int("measurements", count))), steps})


def rounded(map_: Tensor) -> list[list[float]]:
    """A map as JSON with three significant digits, enough for a picture."""
    return [[float(f"{value:.3g}") for value in row] for row in map_.tolist()]


def first_full(history: dict[str, Any], measure: str = "exact") -> float | None:
    """The first measured step at which ``measure`` is 1, up to rounding; None if it never is."""
    steps = zip(history["step"], history[measure], strict=True)
    return next((step for step, value in steps if abs(value - 1) < 1e-9), None)

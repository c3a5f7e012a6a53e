"""What a simplified ViT knows, measured along its training: shared by the recipes of the theory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from posattn import checks
from posattn.runs.seeds import mean_std
from posattn.shapes import Scores
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory.descent import Step
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import Batch, StructuredTask

History = dict[str, list[float]]


@torch.no_grad()
def describe(model: SimplifiedViT, task: StructuredTask, test: Batch) -> dict[str, float]:
    """Loss and accuracy on ``test``, patch association, exact rows, attention inside the sets, cos(v, w*)."""
    logits = model(test.patches)
    found = patch_association(held_scores(model), task.partition)
    return {
        "loss": logistic_loss(logits, test.labels).item(),
        "accuracy": (logits * test.labels > 0).double().mean().item(),
        "association": float(found.top_c),
        "exact": float(found.exact),
        "mass": float(found.mass),
        "alignment": torch.cosine_similarity(model.value, task.feature, dim=0).item(),
    }


def held_scores(model: SimplifiedViT) -> Scores:
    """A as the model reads it: A_ii = σ_A, whatever parametrises the rest."""
    return model.scores.detach().clone().fill_diagonal_(model.diagonal)


def by_set(map_: Scores, partition: Partition) -> Scores:
    """The map with the patches of each set side by side."""
    order = partition.sets.flatten()
    return map_[order][:, order]


def track(
    model: SimplifiedViT,
    task: StructuredTask,
    test: Batch,
    training: Iterable[Step],
    at: Sequence[int],
    watch: Callable[[dict[str, float]], None] = lambda row: None,
) -> tuple[History, list[Tensor]]:
    """``describe`` over training and, at each measurement, the scores off the diagonal with the sets side by side.

    Args:
        model: what ``training`` trains.
        task, test: as in ``describe``.
        training: run to its end.
        at: the numbers of updates after which it is measured; 0 is the start.
        watch: told of each row as it is measured.
    """
    history: History = {}
    maps: list[Tensor] = []
    wanted = set(at)

    def measure(step: int) -> None:
        if step not in wanted:
            return
        row = {"step": step, **describe(model, task, test)}
        watch(row)
        for name, value in row.items():
            history.setdefault(name, []).append(value)
        maps.append(by_set(held_scores(model).fill_diagonal_(0.0), task.partition))

    measure(0)
    for updates, _ in training:
        measure(updates)
    return history, maps


def evenly(steps: int, count: int) -> list[int]:
    """About ``count`` numbers of updates from 0 to ``steps``, both included."""
    return sorted({*range(0, steps, max(1, steps // checks.positive_int("measurements", count))), steps})


def over_seeds(histories: Sequence[History]) -> dict[str, History]:
    """The mean and the standard deviation of every measure at every step."""
    spread = {
        name: [mean_std(column) for column in zip(*(h[name] for h in histories), strict=True)]
        for name in histories[0]
    }
    return {
        "mean": {name: [mean for mean, _ in pairs] for name, pairs in spread.items()},
        "std": {name: [std for _, std in pairs] for name, pairs in spread.items()},
    }


def rounded(map_: Tensor) -> list[list[float]]:
    """A map as JSON of three significant digits, enough for a picture."""
    return [[float(f"{value:.3g}") for value in row] for row in map_.tolist()]


def first_full(history: dict[str, Any], measure: str = "exact") -> float | None:
    """The first measured step at which ``measure`` is 1, None where it never is."""
    return next((s for s, value in zip(history["step"], history[measure], strict=True) if value == 1.0), None)

"""What a simplified ViT knows, measured along its training: shared by the recipes of the theory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posattn import checks
from posattn.runs.seeds import mean_std
from posattn.shapes import Maps
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

    Means over heads or classes where there are several. NaN: the attention inside the sets where S is not a
    distribution over patches, the cosine where the task has no feature or the model no value. ValueError where
    sets overlap, for which association is not defined.
    """
    logits, attention = model(test.patches), model.attention()
    found = patch_association(held_scores(model), task.partition)
    mass = patch_association(attention, task.partition).mass if is_attention(attention) else torch.nan
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
    """cos(v, w*), NaN without a v or a w*."""
    feature = getattr(task, "feature", None)
    values = value_parameters(model) if isinstance(model, nn.Module) else []
    if feature is None or not values:
        return float("nan")
    return torch.stack([torch.cosine_similarity(v, feature, dim=0).mean() for v in values]).mean().item()


def held_scores(model: Model) -> Maps:
    """A as the model reads it: A_ii = σ_A, whatever parametrises the rest; S of a model without scores."""
    scores = model.held_scores() if hasattr(model, "held_scores") else model.attention()
    return scores.detach().clone()


def by_set(map_: Maps, partition: Cover) -> Maps:
    """The map with the patches of each set side by side."""
    return map_[..., partition.order, :][..., partition.order]


def off_diagonal(map_: Maps) -> Maps:
    """The map with 0 on its diagonal, in place."""
    map_.diagonal(dim1=-2, dim2=-1).zero_()
    return map_


def track(
    model: Model,
    task: Task,
    test: Labelled,
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
        maps.append(by_set(off_diagonal(held_scores(model)), task.partition))

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

"""Accuracy of a model on structured data."""

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.theory.in_law import check_in_law, draw, project
from posattn.theory.protocols import Labelled
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

CHUNK = 2**22  # entries of the signal drawn at once


def correct(logits: Float[Tensor, "..."], labels: Shaped[Tensor, "..."]) -> float:
    """The share of samples whose logit has the sign of the label, or whose largest logit is its class.

    0, NaN and several largest logits are wrong, whatever the classes are numbered. A sum that is 0 but for rounding,
    such as that of all patches with uniform attention, may have the sign of the rounding.

    Args:
        logits: (n,), or (n, K) for K classes.
        labels: ±1, or 0..K-1.

    Raises ValueError for other shapes, for K = 1, and for labels that are not ±1, or not in 0..K-1.
    """
    if logits.shape[:1] != labels.shape or logits.ndim > 2 or logits.shape[1:] == (1,):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits must be (n,) or (n, K) for labels (n,), got {shapes}")
    if logits.ndim == 1:
        if not ((labels == 1) | (labels == -1)).all():
            raise ValueError(f"one logit per sample needs labels of ±1, got {labels.unique().tolist()[:20]}")
        return (logits * labels > 0).double().mean().item()
    if ((labels < 0) | (labels >= logits.shape[1])).any():
        found = labels.unique().tolist()[:20]
        raise ValueError(
            f"{logits.shape[1]} logits per sample need labels in 0..{logits.shape[1] - 1}, got {found}"
        )
    alone = (logits == logits.amax(-1, keepdim=True)).sum(-1) == 1  # not where one is NaN
    right = (logits.argmax(-1) == labels) & alone
    return right.double().mean().item()


@torch.no_grad()
def accuracy(model: nn.Module, batch: Labelled) -> float:
    """The share of samples of ``batch`` that the model gets right; the errors are those of ``correct``."""
    return correct(model(batch.patches), batch.labels)


@torch.no_grad()
def accuracy_in_law(
    model: SimplifiedViT, task: StructuredTask, samples: int, *, generator: Generator | None = None
) -> float:
    """``accuracy`` on fresh samples of ``task``, equal in law, without building their patches.

    Raises ValueError if ``samples`` is below 1, and the errors of ``check_in_law``.
    """
    checks.positive_int("samples", samples)
    check_in_law(model, task)
    most, right = max(1, CHUNK // task.partition.num_patches), 0.0
    for start in range(0, samples, most):
        batch = draw(task, min(most, samples - start), generator=generator)
        logits = model.logits(project(model, task, batch)[1])
        right += correct(logits, batch.labels) * len(batch.labels)
    return right / samples

"""Accuracy of a simplified ViT on structured data."""

import torch
from torch import Generator, Tensor

from posattn import checks
from posattn.theory.in_law import draw, read_in_law
from posattn.theory.simplified import SimplifiedViT, activation
from posattn.theory.task import Batch, StructuredTask

CHUNK = 2**22  # entries of the signal drawn at once


@torch.no_grad()
def accuracy(model: SimplifiedViT, batch: Batch) -> float:
    """The share of samples whose logit has the sign of the label; a logit of 0 is wrong."""
    return (model(batch.patches) * batch.labels > 0).double().mean().item()


@torch.no_grad()
def accuracy_in_law(
    model: SimplifiedViT, task: StructuredTask, samples: int, *, generator: Generator | None = None
) -> float:
    """``accuracy`` on fresh samples of ``task``, equal in law, without building their patches.

    ValueError where ``samples`` is below 1.
    """
    checks.positive_int("samples", samples)
    attention, right = model.attention(), 0
    most = max(1, CHUNK // task.partition.num_patches)
    for start in range(0, samples, most):
        right += _right(model, attention, task, min(most, samples - start), generator)
    return right / samples


def _right(
    model: SimplifiedViT, attention: Tensor, task: StructuredTask, samples: int, generator: Generator | None
) -> int:
    batch = draw(task, samples, generator=generator)
    _, read = read_in_law(model, task.feature, task.noise_std, batch)
    logits = activation((model.scale * read) @ attention.T, model.power, model.linear).sum(-1)
    return int((logits * batch.labels > 0).sum())

"""Transfer: a downstream task learned from few samples, with the attention of an upstream one or from scratch.

Source: arXiv 2210.09221, the downstream task (same partition, another feature) and its sample complexity.
"""

from collections.abc import Iterator

import torch
from torch import Generator

from posattn import checks
from posattn.theory.descent import Step, parameter_groups, updates
from posattn.theory.in_law import hand_over, pass_back
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import Batch


def fresh_start(like: SimplifiedViT, *, generator: Generator | None = None) -> SimplifiedViT:
    """A model of the same setting with A at its random start and v at 0.

    With a large κ, what a sharp attention makes of a random v can be certain of a label by luck.
    """
    settings = (like.num_patches, like.dim, like.power, like.linear, like.diagonal, like.scale)
    model = SimplifiedViT(*settings, generator=generator)
    model.value.data.zero_()
    return model


def transferred_attention(learned: SimplifiedViT, *, generator: Generator | None = None) -> SimplifiedViT:
    """A fresh start that begins at the learned attention and trains both A and v."""
    model = fresh_start(learned, generator=generator)
    model.scores.data = learned.scores.detach().clone()
    return model


def frozen_attention(learned: SimplifiedViT, *, generator: Generator | None = None) -> SimplifiedViT:
    """A fresh start that keeps the learned attention and trains v alone."""
    model = transferred_attention(learned, generator=generator)
    model.scores.requires_grad_(False)
    return model


def minibatches(samples: Batch, batch_size: int, *, generator: Generator | None = None) -> Iterator[Batch]:
    """Batches of the given samples without end, in a new order each epoch; what fills no batch is left out of it.

    All samples every time where they are no more than ``batch_size``.
    """
    checks.positive_int("batch_size", batch_size)
    n = len(samples.labels)
    while True:
        if n <= batch_size:
            yield samples
            continue
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield Batch(*(x[chosen] for x in samples))


def fit(
    model: SimplifiedViT,
    samples: Batch,
    batch_size: int,
    steps: int,
    rate: float,
    *,
    value_rate: float | None = None,
    tolerance: float = 0.0,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """Descent with unit-norm gradients on given samples; yields after each update.

    The steps of ``descend``, but that rates fall in a straight line, with ``minibatches`` and the gradient written by
    hand: several times faster for a large D, and for a frozen attention. Ends early once every batch of an epoch in
    a row had a loss below ``tolerance``.

    Args:
        model: trained in place; v alone where its scores require no gradient.
        samples: the (n, D, d) patches and their labels.
        batch_size: samples of each step, at most.
        steps, rate, value_rate: as in ``descend``, with its errors; the rates are those of the first step.
        tolerance: of the loss; 0 never ends early.
        generator: draws the order.

    Raises:
        TypeError, ValueError: an argument is out of range.
        FloatingPointError: as in ``descend``.
    """
    tolerance = checks.finite("tolerance", tolerance, 0.0)
    batches = minibatches(samples, batch_size, generator=generator)
    attention, by_scores = torch.empty_like(model.scores), torch.empty_like(model.scores)

    @torch.no_grad()
    def gradient() -> float:
        batch = next(batches)
        read = batch.patches @ model.value
        loss, by_read = pass_back(model, read, batch.labels, attention, by_scores)
        hand_over(model.scores, by_scores)
        hand_over(model.value, by_read.flatten() @ batch.patches.flatten(0, 1))
        return loss

    epoch, quiet = max(1, len(samples.labels) // batch_size), 0
    for step in updates(parameter_groups(model, value_rate or rate), gradient, steps, rate, True, True):
        yield step
        quiet = quiet + 1 if step.loss < tolerance else 0
        if quiet >= epoch:
            return

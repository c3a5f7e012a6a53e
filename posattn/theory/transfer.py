"""Transfer: a downstream task learned from few samples, with the attention of an upstream one or from scratch.

Source: arXiv 2210.09221, the downstream task (same partition, another feature) and its sample complexity.
"""

from collections.abc import Iterator
from typing import Any

from torch import Generator, nn

from posattn import checks
from posattn.theory.descent import Step, descend, minibatches
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


def fit(
    model: nn.Module,
    samples: Batch,
    batch_size: int,
    steps: int,
    rate: float | None = None,
    *,
    tolerance: float = 0.0,
    generator: Generator | None = None,
    **options: Any,
) -> Iterator[Step]:
    """``descend`` on ``minibatches`` of given samples; yields after each update.

    Plain gradient descent at one rate unless ``options`` say otherwise. It ends early once every batch of an epoch in
    a row had a loss below ``tolerance``.

    Args:
        model: trained in place; v alone where its scores require no gradient.
        samples: the (n, D, d) patches and their labels.
        batch_size: samples of each step, at most.
        steps, rate: as in ``descend``.
        tolerance: of the loss; 0 never ends early.
        generator: draws the order.
        options: ``value_rate``, ``optimizer``, ``normalize``, ``decay`` and ``loss`` of ``descend``.

    Raises:
        TypeError, ValueError: an argument is out of range.
        FloatingPointError: as in ``descend``.
    """
    tolerance = checks.finite("tolerance", tolerance, 0.0)
    batches = minibatches(samples, batch_size, generator=generator)
    run = descend(model, batches.__next__, steps, rate, **options)
    return _until_quiet(run, max(1, len(samples.labels) // batch_size), tolerance)


def _until_quiet(run: Iterator[Step], epoch: int, tolerance: float) -> Iterator[Step]:
    """The steps of ``run`` until the loss has been below ``tolerance`` for an epoch."""
    quiet = 0
    for step in run:
        yield step
        quiet = quiet + 1 if step.loss < tolerance else 0
        if quiet >= epoch:
            return

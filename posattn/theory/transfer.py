"""Transfer: a downstream task learned from few samples, with the attention of an upstream one or from scratch.

Source: arXiv 2210.09221, the downstream task (same partition, another feature) and its sample complexity.
"""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Generator, nn

from posattn import checks
from posattn.structure.partition import Cover
from posattn.theory import solutions
from posattn.theory.descent import Step, descend, minibatches, value_parameters
from posattn.theory.requirements import one_feature
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import Batch, StructuredTask

Model = TypeVar("Model", bound=nn.Module)


def fresh_start(like: Model, *, value_std: float = 0.0, generator: Generator | None = None) -> Model:
    """A copy of ``like`` with A drawn at random again and v = 0; both are trained.

    Args:
        like: has ``reset_parameters``.
        value_std: standard deviation of the Gaussian start of v. It is 0 because with a large κ, sharp
            attention with a random v can be confident of a label by chance.
        generator: draws the start.

    Raises:
        TypeError: the model has no ``reset_parameters``, or no parameter named value.
        ValueError: v would start at 0 where φ'(0) = 0, and never move.
    """
    model = copy.deepcopy(like)
    if not callable(reset := getattr(model, "reset_parameters", None)):
        raise TypeError(f"a fresh start needs reset_parameters, which {type(like).__name__} does not have")
    reset(generator=generator)
    return _start_value(model, value_std, generator)


def transferred_attention(
    learned: Model, *, value_std: float = 0.0, generator: Generator | None = None
) -> Model:
    """A copy that starts from the learned attention with v = 0; both are trained. Otherwise as ``fresh_start``."""
    return _start_value(copy.deepcopy(learned), value_std, generator)


def frozen_attention(learned: Model, *, value_std: float = 0.0, generator: Generator | None = None) -> Model:
    """A copy with the learned attention frozen; only v is trained, from 0. Otherwise as ``fresh_start``."""
    model = transferred_attention(learned, value_std=value_std, generator=generator)
    values = {id(p) for p in value_parameters(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in values)
    return model


def held_attention(
    task: StructuredTask,
    attention: str,
    *,
    value_std: float = 0.0,
    generator: Generator | None = None,
    **options: Any,
) -> SimplifiedViT:
    """A model without access to the structure: the attention is held and only v is trained, from 0.

    Args:
        task: the task to learn.
        attention: ``uniform``: every query attends uniformly; ``permuted``: each attends to its set in a randomly
            permuted partition; ``start``: A stays at its random start.
        value_std: as in ``fresh_start``.
        generator: draws the permutation or the start.
        options: those of SimplifiedViT.

    Raises:
        ValueError: ``attention`` is unknown, the task has several features, or as in ``solutions.reading`` and
            ``fresh_start``.
    """
    one_feature("held attention", task)
    checks.known("held attention", attention, ("uniform", "permuted", "start"))
    if attention == "uniform":
        model = solutions.uniform(task.partition, task, **options)
    elif attention == "permuted":
        order = torch.randperm(task.partition.num_patches, generator=generator)
        model = solutions.associated(Cover(task.partition.membership[:, order]), task, **options)
    else:
        model = SimplifiedViT(task.partition.num_patches, task.dim, generator=generator, **options)
    return frozen_attention(model.to(task.feature), value_std=value_std, generator=generator)


def _start_value(model: Model, value_std: float, generator: Generator | None) -> Model:
    """v at its start and all parameters trained, in place."""
    value_std = checks.finite("value_std", value_std, 0.0)
    if not (values := value_parameters(model)):
        raise TypeError(f"transfer needs a parameter named value, which {type(model).__name__} does not have")
    flat = [_flat_at_zero(module) for module in model.modules() if isinstance(module, SimplifiedViT)]
    if value_std == 0 and any(flat):
        raise ValueError("φ'(0) = 0, so that a v at 0 never moves: give a value_std above 0")
    with torch.no_grad():
        for value in values:
            value.copy_(value_std * torch.randn(value.shape, generator=generator))
    return model.requires_grad_(True)


def _flat_at_zero(model: SimplifiedViT) -> bool:
    """Whether φ'(0) = 0."""
    z = model.value.new_zeros(1).requires_grad_()
    return not torch.autograd.grad(model.activation(z).sum(), z)[0].any()


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

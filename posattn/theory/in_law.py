"""Stochastic gradient descent exact in law, without building the patches.

A fresh batch enters a step only through u, the noise along v, ``g_j = <v⊥, ξ_j> ~ N(0, σ²|v⊥|²)`` where v⊥ is v
less its part along w*, and the noise that c_j = ∂L/∂<v, X_j> carries into ∂L/∂v = Σ_j c_j X_j. Given g,
which fixes c, ``Σ_j c_j ξ_j = (Σ_j c_j g_j / |v⊥|²) v⊥ + σ (Σ_j c_j²)^½ ζ`` with ζ standard normal in the
complement of {w*, v}. A step costs O(B D² + d) time and O(D² + B D + d) memory instead of O(B D d) for both.

It holds for every model whose logits depend on the patches through <v, X_j> alone, whatever φ and S are, and for every
law of labels, sets and signal, as long as the noise is independent and Gaussian: ``check_in_law``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from posattn import checks
from posattn.shapes import Feature, Labels, Signal
from posattn.theory.descent import Step, Updates, train
from posattn.theory.requirements import check_shapes, refuse_overrides
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.softmax_gradient import SoftmaxGradient, has_closed_form
from posattn.theory.task import StructuredTask


class Draw(NamedTuple):
    """The random variables of a batch that a step needs."""

    labels: Labels
    signal: Signal  # u
    along: Signal  # standard normal: the noise along v⊥ in units of σ
    across: Feature  # standard normal: the direction of the summed noise orthogonal to w* and v


def draw(task: StructuredTask, n: int, *, generator: Generator | None = None) -> Draw:
    """A fresh batch of ``n`` samples of ``task``. Raises ValueError if ``n`` is below 1."""
    labels, _, signal = task.sample_signal(n, generator=generator)
    along, across = (torch.empty_like(x).normal_(generator=generator) for x in (signal, task.feature))
    return Draw(labels, signal, along, across)


def check_in_law(model: Any, task: Any) -> None:
    """Check that model and task can be trained in law: ``forward`` and the Gaussian noise must not be overridden.

    Raises:
        TypeError: model or task is of another kind, or overrides what the law is derived from.
        ValueError: they differ in D or d, or v is not one vector.
    """
    for given, kind, fixed in (
        (model, SimplifiedViT, ("forward",)),
        (task, StructuredTask, ("sample", "draw_noise")),
    ):
        refuse_overrides("in law", given, kind, fixed, ": train on its patches with descend")
    if model.value.ndim != 1:
        raise ValueError(f"in law needs one vector v, got value of shape {tuple(model.value.shape)}")
    check_shapes(model, task)
    if model.value.dtype != task.feature.dtype:
        raise TypeError(f"the task is of {task.feature.dtype}, the model of {model.value.dtype}")


def backward_in_law(
    model: SimplifiedViT, task: StructuredTask, batch: Draw, closed_form: SoftmaxGradient | None = None
) -> float:
    """The loss of a batch; its gradient, equal in law to that of patches, is added to ``.grad`` of the parameters.

    Args:
        model: at (A, v).
        task: w* and σ.
        batch: drawn from the task.
        closed_form: of the model, in place of autograd; a reference to ``.grad`` of A is valid until its next use.
    """
    direction, projections = project(model, task, batch)
    loss, c = (closed_form.backward if closed_form else partial(_backward, model))(projections, batch.labels)
    if model.value.requires_grad:
        sigma, across = task.noise_std, batch.across
        by_value = (c * batch.signal).sum() * task.feature + sigma * (c * batch.along).sum() * direction
        rest = across - (across @ task.feature) * task.feature - (across @ direction) * direction
        model.value.backward(by_value + sigma * c.norm() * rest)
    return loss.item()


def _backward(model: SimplifiedViT, projections: Signal, labels: Labels) -> tuple[Tensor, Signal]:
    """The loss and its gradient in the projections, by autograd; that of A is added to ``.grad``."""
    loss = logistic_loss(model.logits(projections.requires_grad_()), labels)
    loss.backward()
    return loss.detach(), torch.zeros_like(projections) if projections.grad is None else projections.grad


@torch.no_grad()
def project(model: SimplifiedViT, task: StructuredTask, batch: Draw) -> tuple[Feature, Signal]:
    """``v⊥/|v⊥|``, and <v, X_j> of every patch."""
    strength = model.value @ task.feature
    direction, length = unit_residue(model.value, strength, task.feature)
    return direction, strength * batch.signal + (task.noise_std * length) * batch.along


def unit_residue(value: Feature, strength: Tensor, feature: Feature) -> tuple[Feature, Tensor]:
    """``v⊥/|v⊥|`` and ``|v⊥|``; the direction is 0 where v⊥ is 0."""
    residue = value - strength * feature
    # remove the rounding error along w*, which is large relative to a small v⊥
    residue = residue - (residue @ feature) * feature
    length = residue.norm()
    return residue / length.clamp_min(torch.finfo(length.dtype).tiny), length


def descend_in_law(
    model: SimplifiedViT,
    task: StructuredTask,
    batch_size: int,
    steps: int,
    rate: float | None = None,
    *,
    value_rate: float | None = None,
    optimizer: Optimizer | None = None,
    normalize: bool = False,
    decay: bool = False,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """``descend`` on fresh batches of ``task``, in law, without their patches; yields after each update.

    Args:
        model: trained in place.
        task: the distribution; the generator is on the device of its feature.
        batch_size: samples of each step.
        steps, rate, value_rate, optimizer, normalize, decay: as in ``descend``, with its errors.
        generator: draws the batches.

    Raises:
        TypeError, ValueError: an argument is out of range, or as in ``check_in_law``.
        FloatingPointError: as in ``descend``.
    """
    batch_size = checks.positive_int("batch_size", batch_size)
    check_in_law(model, task)
    closed_form = SoftmaxGradient(model) if has_closed_form(model) else None

    def gradient() -> float:
        return backward_in_law(model, task, draw(task, batch_size, generator=generator), closed_form)

    return train(model, gradient, steps, Updates(rate, value_rate, optimizer, normalize, decay))

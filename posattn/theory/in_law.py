"""Stochastic gradient descent exact in law, without building the patches.

A fresh batch enters a step only through u, the noise along v, g_j = <v⊥, ξ_j> ~ N(0, σ²|v⊥|²) where v⊥ is v
less its part along w*, and the noise that c_j = ∂L/∂<v, X_j> carries into ∂L/∂v = Σ_j c_j X_j. Given g,
which fixes c, Σ_j c_j ξ_j = (Σ_j c_j g_j / |v⊥|²) v⊥ + σ (Σ_j c_j²)^½ ζ with ζ standard normal in the
complement of {w*, v}.
A step costs O(B D² + d) time and O(D² + B D + d) memory instead of O(B D d) for both.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Feature, Labels, Scores, Signal
from posattn.theory.descent import Step, optimizer_of, updates
from posattn.theory.simplified import SimplifiedViT, activation, logistic_loss
from posattn.theory.task import StructuredTask


class Gradient(NamedTuple):
    """The loss of a batch and its gradient."""

    loss: float
    scores: Scores
    value: Feature


class Draw(NamedTuple):
    """All that a step needs of a batch."""

    labels: Labels
    signal: Signal  # u
    along: Signal  # standard normal: the noise along v⊥ in units of σ
    across: Feature  # standard normal: the direction of the summed noise orthogonal to w* and v


def draw(task: StructuredTask, n: int, *, generator: Generator | None = None) -> Draw:
    """A fresh batch of ``n`` samples of ``task``. ValueError where ``n`` is below 1."""
    labels, _, signal = task.sample_signal(n, generator=generator)
    along, across = (torch.empty_like(x).normal_(generator=generator) for x in (signal, task.feature))
    return Draw(labels, signal, along, across)


@torch.no_grad()
def gradient_in_law(
    model: SimplifiedViT,
    feature: Feature,
    noise_std: float,
    batch: Draw,
    *,
    buffers: tuple[Scores, Scores] | None = None,
) -> Gradient:
    """The gradient of a batch, equal in law to that of patches u_j w* + ξ_j with ξ_j ~ N(0, σ²(I - w* w*ᵀ)).

    Args:
        model: at (A, v).
        feature: (d,) the unit vector w*.
        noise_std: σ.
        batch: what was drawn.
        buffers: for S and for ∂L/∂A, which is returned in the second. Writing to fresh memory can take longer
            than all the rest.
    """
    attention, by_scores = buffers or (torch.empty_like(model.scores), torch.empty_like(model.scores))
    labels, signal, along, across = batch
    direction, read = read_in_law(model, feature, noise_std, batch)
    loss, by_read = pass_back(model, read, labels, attention, by_scores)
    by_value = (by_read * signal).sum() * feature + noise_std * (by_read * along).sum() * direction
    rest = across - (across @ feature) * feature - (across @ direction) * direction
    by_value += noise_std * by_read.norm() * rest
    return Gradient(loss, by_scores, by_value)


def read_in_law(
    model: SimplifiedViT, feature: Feature, noise_std: float, batch: Draw
) -> tuple[Feature, Signal]:
    """(v⊥/|v⊥|, <v, X_j> of every patch)."""
    strength = model.value @ feature
    direction, length = unit_residue(model.value, strength, feature)
    return direction, strength * batch.signal + (noise_std * length) * batch.along


def pass_back(
    model: SimplifiedViT, read: Signal, labels: Labels, attention: Scores, by_scores: Scores
) -> tuple[float, Signal]:
    """The loss and its gradient c in ``read``, <v, X_j> of every patch, derived by hand.

    S is left in ``attention``; the gradient in A in ``by_scores``, where A is trained.
    """
    attention.copy_(model.scores).fill_diagonal_(model.diagonal)
    torch.softmax(attention, -1, out=attention)
    z = (model.scale * read) @ attention.T
    logits = activation(z, model.power, model.linear).sum(-1)
    by_logit = -labels * torch.sigmoid(-labels * logits) / len(labels)
    by_z = by_logit[:, None] * (model.power * z ** (model.power - 1) + model.linear)
    by_mean = model.scale * by_z  # of the mean that each query reads
    # asked of the parameters, for without autograd a parametrized A does not say that it is trained
    if any(p.requires_grad for p in model.parameters() if p is not model.value):
        torch.mm(by_mean.T, read, out=by_scores)
        by_scores.sub_((by_z * z).sum(0)[:, None]).mul_(attention).fill_diagonal_(0.0)
    return logistic_loss(logits, labels).item(), by_mean @ attention


def unit_residue(value: Feature, strength: Tensor, feature: Feature) -> tuple[Feature, Tensor]:
    """(v⊥/|v⊥|, |v⊥|), the first 0 where v⊥ is."""
    residue = value - strength * feature
    residue = residue - (residue @ feature) * feature  # what rounding left of w*, large beside a small v⊥
    length = residue.norm()
    return residue / length.clamp_min(torch.finfo(length.dtype).tiny), length


def descend_in_law(
    model: SimplifiedViT,
    task: StructuredTask,
    batch_size: int,
    steps: int,
    rate: float,
    *,
    value_rate: float | None = None,
    normalize: bool = False,
    decay: bool = False,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """``descend`` on fresh batches of ``task``, in law, without their patches; yields after each update.

    Args:
        model: trained in place.
        task: the distribution; the generator is on the device of its feature.
        batch_size: samples of each step.
        steps, rate, value_rate, normalize: as in ``descend``, with its errors.
        decay: the rates fall in a straight line, almost to 0 at the last step.
        generator: draws the batches.

    Raises:
        TypeError, ValueError: an argument is out of range, or model and task differ in D or d.
        FloatingPointError: as in ``descend``.
    """
    batch_size = checks.positive_int("batch_size", batch_size)
    shape = (task.partition.num_patches, task.dim)
    if (model.num_patches, model.dim) != shape:
        raise ValueError(f"the task has (D, d) = {shape}, the model {(model.num_patches, model.dim)}")

    scores = model.scores.detach()
    buffers = torch.empty_like(scores), torch.empty_like(scores)

    def gradient() -> float:
        batch = draw(task, batch_size, generator=generator)
        loss, by_scores, by_value = gradient_in_law(
            model, task.feature, task.noise_std, batch, buffers=buffers
        )
        hand_over(model.scores, by_scores)
        hand_over(model.value, by_value)
        return loss

    optimizer = optimizer_of(model, rate, value_rate, None)
    return updates(optimizer, gradient, steps, normalize=normalize, decay=decay)


def hand_over(output: Tensor, gradient: Tensor) -> None:
    """Hands a gradient to a parameter that is trained, or through the parametrization that computes ``output``."""
    if not output.requires_grad:
        return
    if output.is_leaf:
        output.grad = gradient
    else:
        output.backward(gradient)

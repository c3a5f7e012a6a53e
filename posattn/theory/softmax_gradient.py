"""The gradient of the logistic loss through the softmax of the scores, in closed form.

With z_i = κ Σ_j S_ij p_j, p_j = <v, X_j> and ζ_i = ∂L/∂z_i, summed over samples where an index is missing:
∂L/∂A = S ∘ (κ ζᵀ p - Σ_n ζ z), zero on a held diagonal, and ∂L/∂p = κ ζ S. Autograd gives the same, but passes over
(D, D) tensors more often and in fresh memory. φ is differentiated by autograd.
"""

import torch
from torch import Tensor

from posattn.shapes import Labels, Scores, Signal
from posattn.theory.requirements import overridden
from posattn.theory.simplified import SimplifiedViT, logistic_loss

FIXED = ("logits", "attention", "normalize", "held_scores")  # what the closed form is derived from


def has_closed_form(model: SimplifiedViT) -> bool:
    """Whether S is the row-softmax of A and F(X) = Σ_i φ(κ Σ_j S_ij <v, X_j>), in the model as in its class."""
    return model.given_normalize is None and overridden(model, SimplifiedViT, FIXED) is None


class SoftmaxGradient:
    """The closed form for one model, in (D, D) memory that is used again by each call."""

    def __init__(self, model: SimplifiedViT) -> None:
        self.model = model
        self.map, self.by_scores = torch.empty_like(model.scores), torch.empty_like(model.scores)

    def backward(self, projections: Signal, labels: Labels) -> tuple[Tensor, Signal]:
        """The loss and ∂L/∂p; ∂L/∂A, and the gradients of parameters of φ, are added to ``.grad``."""
        model, scores = self.model, self.model.scores  # with its graph, where A = P Pᵀ
        if scores.is_leaf and scores.grad is not None and scores.grad.data_ptr() == self.by_scores.data_ptr():
            scores.grad = scores.grad.clone()  # of the call before, to be added to
        S, z = self._read(scores, projections)
        loss = logistic_loss(model.activation(z).sum(-1), labels)
        loss.backward()
        by_z = torch.zeros_like(z) if z.grad is None else z.grad
        with torch.no_grad():
            if scores.requires_grad:
                _add_gradient(scores, self._by_scores(S, by_z, (by_z * z).sum(0), projections))
            return loss.detach(), (by_z @ S).mul_(model.scale)

    @torch.no_grad()
    def _read(self, scores: Scores, projections: Signal) -> tuple[Scores, Signal]:
        """S and z."""
        held = self.by_scores.copy_(scores)
        if self.model.hold_diagonal:
            held.fill_diagonal_(self.model.diagonal)
        S = torch.softmax(held, -1, out=self.map)
        return S, (projections @ S.T).mul_(self.model.scale).requires_grad_()

    def _by_scores(self, S: Scores, by_z: Signal, pull: Tensor, projections: Signal) -> Scores:
        """∂L/∂A."""
        gradient = torch.addmm(
            pull[:, None], by_z.T, projections, beta=-1, alpha=self.model.scale, out=self.by_scores
        ).mul_(S)
        return gradient.fill_diagonal_(0.0) if self.model.hold_diagonal else gradient


def _add_gradient(scores: Scores, gradient: Scores) -> None:
    """Add to ``.grad``, without a copy if it is empty."""
    if scores.is_leaf and scores.grad is None:
        scores.grad = gradient
    else:
        scores.backward(gradient)

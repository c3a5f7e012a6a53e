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
        model = self.model
        S, z = self._read(projections)
        loss = logistic_loss(model.activation(z).sum(-1), labels)
        loss.backward()
        by_z = torch.zeros_like(z) if z.grad is None else z.grad
        with torch.no_grad():
            if model.scores.requires_grad:
                self._add_to_scores(S, by_z, (by_z * z).sum(0), projections)
            return loss.detach(), (by_z @ S).mul_(model.scale)

    @torch.no_grad()
    def _read(self, projections: Signal) -> tuple[Scores, Signal]:
        """S and z."""
        model, scores = self.model, self.by_scores.copy_(self.model.scores)
        if model.hold_diagonal:
            scores.fill_diagonal_(model.diagonal)
        S = torch.softmax(scores, -1, out=self.map)
        return S, (projections @ S.T).mul_(model.scale).requires_grad_()

    def _add_to_scores(self, S: Scores, by_z: Signal, pull: Tensor, projections: Signal) -> None:
        gradient = torch.addmm(
            pull[:, None], by_z.T, projections, beta=-1, alpha=self.model.scale, out=self.by_scores
        ).mul_(S)
        if self.model.hold_diagonal:
            gradient.fill_diagonal_(0.0)
        scores = self.model.scores
        if scores.is_leaf and scores.grad is None:
            scores.grad = gradient
        else:
            scores.backward(gradient)

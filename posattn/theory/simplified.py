"""The paper's simplified ViT: one layer whose attention depends on positions alone.

Source: arXiv 2210.09221, the simplified model and its positional attention.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from posattn import checks
from posattn.shapes import Patches, Scores
from posattn.theory.requirements import one_feature
from posattn.theory.task import StructuredTask

Scored = TypeVar("Scored", bound=nn.Module)  # with a parameter ``scores``


def logistic_loss(logits: Float[Tensor, "..."], labels: Tensor) -> Float[Tensor, ""]:
    """The mean of log(1 + exp(-y F(X))). Raises ValueError if the shapes differ, or a label is not ±1."""
    if logits.shape != labels.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(
            f"the logistic loss needs a logit per label, got logits and labels of shapes {shapes}"
        )
    if not ((labels == 1) | (labels == -1)).all():
        raise ValueError(f"the logistic loss needs labels of ±1, got {labels.unique().tolist()[:20]}")
    return F.softplus(-labels * logits).mean()


class SimplifiedViT(nn.Module):
    """F(X) = Σ_i φ(κ Σ_j S_ij <v, X_j>), S = row-softmax(A), φ(z) = z^p + ν z.

    ``scores`` (A) and ``value`` (v) are trained; A_ii = σ_A receives no gradient where it is held. A subclass changes
    an assumption by overriding ``activation``, ``normalize`` or ``held_scores``; one that overrides ``forward`` is
    trained by ``descend`` but not in law.

    Args:
        num_patches: D.
        dim: d, the dimension of a patch.
        power: p, odd and at least 3.
        linear: ν, at least 0.
        diagonal: σ_A.
        scale: κ, above 0; default: D.
        activation: φ, any elementwise function; default: z^p + ν z.
        normalize: the map S of the scores A, (D, D) to (D, D); default: the softmax of each row.
        hold_diagonal: hold A_ii at σ_A; otherwise σ_A is its start, and each A_ii is trained.
        init_std: standard deviation of the Gaussian start of A off the diagonal and of v.
        generator: draws that start.

    Raises:
        TypeError, ValueError: an argument is out of range, or p or ν is given along with another φ.
    """

    def __init__(
        self,
        num_patches: int,
        dim: int,
        power: int = 3,
        linear: float = 0.01,
        diagonal: float = 2.0,
        scale: float | None = None,
        *,
        activation: Callable[[Tensor], Tensor] | None = None,
        normalize: Callable[[Tensor], Tensor] | None = None,
        hold_diagonal: bool = True,
        init_std: float = 1e-3,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_patches = checks.positive_int("num_patches", num_patches)
        self.dim = checks.positive_int("dim", dim)
        self.power = checks.odd_power("power", power)
        self.linear = checks.finite("linear", linear, 0.0)
        if activation is not None and (power, linear) != (3, 0.01):
            raise ValueError(
                f"power {power} and linear {linear} belong to z^p + ν z, not to the activation given"
            )
        self.diagonal = checks.finite("diagonal", diagonal)
        self.scale = float(num_patches) if scale is None else checks.positive("scale", scale)
        self.given_activation, self.given_normalize = activation, normalize
        self.hold_diagonal = hold_diagonal
        self.init_std = checks.finite("init_std", init_std, 0.0)
        self.scores = nn.Parameter(torch.empty(num_patches, num_patches))
        self.value = nn.Parameter(torch.empty(dim))
        self.reset_parameters(generator=generator)

    @torch.no_grad()
    def reset_parameters(self, *, generator: Generator | None = None) -> None:
        """Draw A and v again at random, with σ_A on the diagonal. TypeError if A is parametrised, but not as P Pᵀ."""
        if parametrize.is_parametrized(self, "scores"):
            gram = self.get_submodule("parametrizations.scores.0")
            if not isinstance(gram, GramScores):
                raise TypeError(f"a start is known for free scores and P Pᵀ, not for {type(gram).__name__}")
            gram.reset(self.get_parameter("parametrizations.scores.original"), generator)
        else:
            self.scores.copy_(self.init_std * torch.randn(self.scores.shape, generator=generator))
            self.scores.fill_diagonal_(self.diagonal)
        self.value.copy_(self.init_std * torch.randn(self.value.shape, generator=generator))

    @classmethod
    def small(cls, num_patches: int, dim: int, *, generator: Generator | None = None) -> "SimplifiedViT":
        """The paper's small-experiment setting: κ = 1, p = 5, ν = 0.03, σ_A = log log d, a start at 1e-3.

        Raises ValueError for d below 3, where log log d is not a number.
        """
        if checks.positive_int("dim", dim) < 3:
            raise ValueError(f"dim must be at least 3 for σ_A = log log d, got {dim}")
        return cls(num_patches, dim, 5, 0.03, math.log(math.log(dim)), 1.0, generator=generator)

    @classmethod
    def analysis(cls, task: StructuredTask, *, alpha: float = 0.005) -> "SimplifiedViT":
        """The setting of the paper's analysis: κ = D, p = 3, ν = 0.01, σ_A = 2, A_ij = 0, v = α₀ w*."""
        one_feature("the setting of the analysis", task)
        model = cls(task.partition.num_patches, task.dim, init_std=0.0)
        model.value.data = checks.finite("alpha", alpha) * task.feature.clone()
        model.scores.data = model.scores.data.to(task.feature)
        return model

    def activation(self, z: Tensor) -> Tensor:
        """φ of each entry."""
        if self.given_activation is not None:
            return self.given_activation(z)
        return z**self.power + self.linear * z

    def normalize(self, scores: Scores) -> Scores:
        """The map S of the scores."""
        return torch.softmax(scores, dim=-1) if self.given_normalize is None else self.given_normalize(scores)

    def held_scores(self) -> Scores:
        """The scores A with A_ii = σ_A if the diagonal is held, whatever is stored there."""
        if not self.hold_diagonal:
            return self.scores
        held = self.scores.new_full((self.num_patches,), self.diagonal)
        return self.scores.diagonal_scatter(held)

    @torch.no_grad()
    def restore_diagonal(self) -> None:
        """Reset the stored diagonal of A to σ_A if it is held; weight decay changes it."""
        if self.hold_diagonal and not parametrize.is_parametrized(self, "scores"):
            self.scores.fill_diagonal_(self.diagonal)

    def attention(self) -> Scores:
        """S, the (D, D) map: row i is what query i reads of each patch."""
        return self.normalize(self.held_scores())

    def logits(self, projections: Float[Tensor, "n D *k"]) -> Float[Tensor, " n *k"]:
        """F(X) of the projections <v, X_j>, of k of them where v is (d, k)."""
        z = self.scale * torch.tensordot(projections, self.attention(), ([1], [1]))
        return self.activation(z).sum(-1)

    def forward(self, patches: Patches) -> Float[Tensor, " n *k"]:
        """(n,) logits F(X), (n, k) where v is (d, k). Raises ValueError if the patches are not (n, D, d)."""
        if patches.ndim != 3 or tuple(patches.shape[1:]) != (self.num_patches, self.dim):
            expected = f"(n, {self.num_patches}, {self.dim})"
            raise ValueError(f"patches must be {expected}, got {tuple(patches.shape)}")
        return self.logits(patches @ self.value)


class GramScores(nn.Module):
    """A = P Pᵀ, started with entries of standard deviation ``init_std`` off the diagonal."""

    def __init__(self, init_std: float) -> None:
        super().__init__()
        self.init_std = init_std

    def reset(self, encodings: Float[Tensor, "D m"], generator: Generator | None) -> None:
        """Gaussian P at its start, in place."""
        std = math.sqrt(self.init_std / math.sqrt(encodings.shape[1]))  # P_i·P_j has variance m std⁴
        with torch.no_grad():
            encodings.copy_(std * torch.randn(encodings.shape, generator=generator))

    def forward(self, encodings: Float[Tensor, "D m"]) -> Scores:
        return encodings @ encodings.T


def encode_positions(
    model: Scored, dim: int, *, init_std: float = 1e-3, generator: Generator | None = None
) -> Scored:
    """The model with its scores parametrised as A = P Pᵀ by trained positional encodings P (D, m), in place.

    ``model.scores`` stays (D, D); P is ``model.parametrizations.scores.original``. A diagonal that is not held is then
    ``|P_i|²``, not σ_A.

    Args:
        model: its ``scores``, (D, D), are replaced.
        dim: m; below D the scores have rank at most m.
        init_std: standard deviation of the entries of A off the diagonal at the start, above 0: P = 0 is a
            stationary point.
        generator: draws P, whose entries are Gaussian.

    Raises:
        TypeError, ValueError: ``dim`` or ``init_std`` is out of range, or the scores are parametrised or not square.
    """
    dim, init_std = checks.positive_int("dim", dim), checks.finite("init_std", init_std, 0.0)
    if init_std == 0:
        raise ValueError(f"init_std must be above 0, got {init_std}")
    if parametrize.is_parametrized(model, "scores"):
        raise ValueError("the scores of the model are parametrised already")
    scores = model.get_parameter("scores")
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"P Pᵀ is square, the scores of the model are {tuple(scores.shape)}")
    gram, encodings = GramScores(init_std), scores.new_empty(len(scores), dim)
    gram.reset(encodings, generator)
    model.register_parameter("scores", nn.Parameter(encodings))
    parametrize.register_parametrization(model, "scores", gram, unsafe=True)
    return model


def small_noise_rate(num_patches: int, dim: int) -> float:
    """q = log(d) / D of the paper's small experiments. Raises TypeError or ValueError if it is no probability."""
    D, d = checks.positive_int("num_patches", num_patches), checks.positive_int("dim", dim)
    return checks.probability("noise_rate = log(d) / D", math.log(d) / D)

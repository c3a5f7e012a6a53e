"""The paper's simplified ViT: one layer whose attention depends on positions alone.

Source: arXiv 2210.09221, the simplified model and its positional attention.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from posattn import checks
from posattn.shapes import Labels, Logits, Patches, Scores
from posattn.theory.task import StructuredTask


def attention_map(scores: Scores, diagonal: float) -> Scores:
    """S = row-softmax(A), with A_ii held at σ_A whatever ``scores`` holds there."""
    held = torch.full_like(scores.diagonal(), diagonal)
    return torch.softmax(scores.diagonal_scatter(held), dim=-1)


def activation(z: Tensor, power: int, linear: float) -> Tensor:
    """φ(z) = z^p + ν z."""
    return z**power + linear * z


def logistic_loss(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """The mean of log(1 + exp(-y F(X)))."""
    return F.softplus(-labels * logits).mean()


class SimplifiedViT(nn.Module):
    """F(X) = Σ_i φ(κ Σ_j S_ij <v, X_j>), S = row-softmax(A), φ(z) = z^p + ν z.

    The off-diagonal entries of ``scores`` (A) and ``value`` (v) are trained; A_ii = σ_A receives no gradient.

    Args:
        num_patches: D.
        dim: d, the dimension of a patch.
        power: p, odd and at least 3.
        linear: ν, at least 0.
        diagonal: σ_A.
        scale: κ; None stands for D.
        init_std: standard deviation of the Gaussian start of A off the diagonal and of v.
        generator: draws that start.

    Raises:
        TypeError, ValueError: an argument is out of range.
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
        init_std: float = 1e-3,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_patches = checks.positive_int("num_patches", num_patches)
        self.dim = checks.positive_int("dim", dim)
        self.power = checks.odd_power("power", power)
        self.linear = checks.finite("linear", linear, 0.0)
        self.diagonal = checks.finite("diagonal", diagonal)
        self.scale = float(num_patches) if scale is None else checks.finite("scale", scale)
        init_std = checks.finite("init_std", init_std, 0.0)
        scores = init_std * torch.randn(num_patches, num_patches, generator=generator)
        self.scores = nn.Parameter(scores.fill_diagonal_(self.diagonal))
        self.value = nn.Parameter(init_std * torch.randn(dim, generator=generator))

    @classmethod
    def small(cls, num_patches: int, dim: int, *, generator: Generator | None = None) -> "SimplifiedViT":
        """The paper's small-experiment setting: κ = 1, p = 5, ν = 0.03, σ_A = log log d, a start at 1e-3.

        ValueError for d below 3, where log log d is not a number.
        """
        if checks.positive_int("dim", dim) < 3:
            raise ValueError(f"dim must be at least 3 for σ_A = log log d, got {dim}")
        return cls(num_patches, dim, 5, 0.03, math.log(math.log(dim)), 1.0, generator=generator)

    @classmethod
    def analysis(cls, task: StructuredTask, *, alpha: float = 0.005) -> "SimplifiedViT":
        """The setting of the paper's analysis: κ = D, p = 3, ν = 0.01, σ_A = 2, A_ij = 0, v = α₀ w*."""
        model = cls(task.partition.num_patches, task.dim, init_std=0.0)
        model.value.data = checks.finite("alpha", alpha) * task.feature.clone()
        model.scores.data = model.scores.data.to(task.feature)
        return model

    def attention(self) -> Scores:
        """S, the (D, D) map: row i is the distribution over patches that query i reads."""
        return attention_map(self.scores, self.diagonal)

    def forward(self, patches: Patches) -> Logits:
        """(n,) logits F(X). ValueError where the patches are not (n, D, d)."""
        if patches.ndim != 3 or tuple(patches.shape[1:]) != (self.num_patches, self.dim):
            expected = f"(n, {self.num_patches}, {self.dim})"
            raise ValueError(f"patches must be {expected}, got {tuple(patches.shape)}")
        read = (patches @ self.value) @ self.attention().T
        return activation(self.scale * read, self.power, self.linear).sum(-1)


class GramScores(nn.Module):
    """A = P Pᵀ."""

    def forward(self, encodings: Float[Tensor, "D m"]) -> Scores:
        return encodings @ encodings.T


def encode_positions(
    model: SimplifiedViT, dim: int, *, init_std: float = 1e-3, generator: Generator | None = None
) -> SimplifiedViT:
    """The model with its scores parametrised as A = P Pᵀ by trained positional encodings P (D, m), in place.

    ``model.scores`` stays (D, D); P is ``model.parametrizations.scores.original``.

    Args:
        model: its scores are replaced.
        dim: m; below D the scores have rank at most m.
        init_std: standard deviation of the entries of A off the diagonal at the start, above 0: P = 0 is a
            stationary point.
        generator: draws P, whose entries are Gaussian.

    Raises:
        TypeError, ValueError: ``dim`` or ``init_std`` is out of range, or the scores are parametrised.
    """
    dim, init_std = checks.positive_int("dim", dim), checks.finite("init_std", init_std, 0.0)
    if init_std == 0:
        raise ValueError(f"init_std must be above 0, got {init_std}")
    if parametrize.is_parametrized(model, "scores"):
        raise ValueError("the scores of the model are parametrised already")
    std = math.sqrt(init_std / math.sqrt(dim))  # P_i·P_j has variance m std⁴
    encodings = std * torch.randn(model.num_patches, dim, generator=generator)
    model.scores = nn.Parameter(encodings.to(model.scores))
    parametrize.register_parametrization(model, "scores", GramScores(), unsafe=True)
    return model


def small_noise_rate(num_patches: int, dim: int) -> float:
    """q = log(d) / D of the paper's small experiments."""
    return checks.probability("noise_rate = log(d) / D", math.log(dim) / num_patches)

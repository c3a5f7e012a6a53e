"""Structured teachers beyond the paper, each with its ground truth: Y = φ(S* X V*).

S* is a fixed row-stochastic map over positions and V* a linear map of the patches, so that attention which depends
on positions alone can express each of them. Source: Zhang, Zhao, Gu and Cao, "Transformers Trained via Gradient
Descent Can Provably Learn a Class of Teacher Models" (arXiv 2603.22801), for the class of teachers; the constants
here are this library's.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Patches
from posattn.structure.partition import Cover

Head = Literal["linear", "relu", "sign"]
Adjacency = Float[Tensor, "D D"]
Outputs = Float[Tensor, "n Q k"]  # Q queries, k outputs each


class TeacherBatch(NamedTuple):
    """Samples of a teacher."""

    patches: Patches
    labels: Outputs


@dataclass(frozen=True, eq=False)
class Teacher:
    """Y = φ(S* X V*) on standard normal patches; made by one of the functions below.

    φ is the identity (``linear``), the positive part (``relu``), or the sign of the mean over queries (``sign``), which
    is then one ±1 label per sample.
    """

    attention: Float[Tensor, "Q D"]  # S*
    value: Float[Tensor, "d k"]  # V*, of unit columns
    head: Head

    def sample(self, n: int, *, generator: Generator | None = None) -> TeacherBatch:
        """``n`` fresh samples: (n, D, d) patches and (n, Q, k) labels, or (n, 1, 1) of ±1. ValueError if n < 1."""
        checks.positive_int("n", n)
        patches = torch.randn(n, self.attention.shape[1], self.value.shape[0], generator=generator)
        return TeacherBatch(patches, self.label(patches))

    def label(self, patches: Patches) -> Outputs:
        """Y of given patches. Raises ValueError if they are not (n, D, d)."""
        expected = (self.attention.shape[1], self.value.shape[0])
        if patches.ndim != 3 or tuple(patches.shape[1:]) != expected:
            raise ValueError(f"patches must be (n, {expected[0]}, {expected[1]}), got {tuple(patches.shape)}")
        outputs = read_out(self.attention @ (patches @ self.value), self.head)
        return outputs.sign() if self.head == "sign" else outputs


def read_out(read: Outputs, head: str) -> Float[Tensor, "n R k"]:
    """φ without the sign, the output of a student with that head. R is Q, or 1 for ``sign``."""
    if head == "sign":
        return read.mean(1, keepdim=True)
    return read.relu() if head == "relu" else read


def convolution(
    partition: Cover, *, dim: int, outputs: int = 1, generator: Generator | None = None
) -> Teacher:
    """One convolution with a kernel of one patch, average pooling over each set, then ReLU.

    Y_ℓ = relu(1/C Σ_{j in S_ℓ} V*ᵀ X_j), C the size of S_ℓ: the L queries are the pooled outputs.

    Args:
        partition: the pooling windows, which may overlap and differ in size.
        dim: d.
        outputs: k, the filters.
        generator: draws V*.

    Raises:
        TypeError, ValueError: ``dim`` or ``outputs`` is out of range.
    """
    means = partition.membership / partition.sizes[:, None]
    return Teacher(means, _value(dim, outputs, generator), "relu")


def graph_convolution(
    adjacency: Shaped[Tensor, "D D"], *, dim: int, outputs: int = 1, generator: Generator | None = None
) -> Teacher:
    """A graph convolution on a regular graph: Y = relu(S* X V*), S* = (adjacency + I) / (degree + 1).

    On a regular graph this is the symmetric normalisation of Kipf and Welling (arXiv 1609.02907).

    Args:
        adjacency: (D, D), symmetric, 0 or 1, without loops, all rows with the same sum.
        dim: d.
        outputs: k.
        generator: draws V*.

    Raises:
        TypeError, ValueError: the graph is not of that kind, or ``dim`` or ``outputs`` is out of range.
    """
    square = adjacency.ndim == 2 and 0 < adjacency.shape[0] == adjacency.shape[1]
    if not square or (adjacency != adjacency.T).any():
        raise ValueError(f"adjacency must be a symmetric (D, D) matrix, got shape {tuple(adjacency.shape)}")
    if not ((adjacency == 0) | (adjacency == 1)).all() or adjacency.diagonal().any():
        raise ValueError("adjacency must hold 0 and 1, and 0 on the diagonal")
    degrees = adjacency.sum(1)
    if (degrees != degrees[0]).any():
        raise ValueError(f"the graph must be regular, got degrees {degrees.unique().tolist()[:20]}")
    attention = (adjacency + torch.eye(len(adjacency))).to(torch.get_default_dtype()) / (degrees[0] + 1)
    return Teacher(attention, _value(dim, outputs, generator), "relu")


def circulant_graph(num_patches: int, degree: int, *, generator: Generator | None = None) -> Adjacency:
    """A regular graph: nodes on a ring in random order, each joined to its degree/2 nearest on either side.

    Raises:
        TypeError, ValueError: ``degree`` is odd or not below ``num_patches``.
    """
    D, degree = checks.positive_int("num_patches", num_patches), checks.positive_int("degree", degree)
    if degree % 2 or degree >= D:
        raise ValueError(f"degree must be even and below num_patches = {D}, got {degree}")
    place = torch.randperm(D, generator=generator)
    steps = (place[:, None] - place[None, :]) % D
    distance = torch.minimum(steps, D - steps)
    return ((distance > 0) & (distance <= degree // 2)).float()


def token_selection(
    num_patches: int, selected: int, *, dim: int, outputs: int = 1, generator: Generator | None = None
) -> Teacher:
    """Sparse token selection: query i outputs the mean over its own s tokens, Y_i = 1/s Σ_{j in G_i} V*ᵀ X_j.

    A variant with subsets G_i fixed by position of sparse averaging (Sanford, Hsu and Telgarsky, arXiv 2306.02896;
    Wang, Wei, Hsu and Lee, arXiv 2406.06893), where they come with the input.

    Args:
        num_patches: D, tokens and queries.
        selected: s, at most D.
        dim: d.
        outputs: k.
        generator: draws the subsets, uniformly, and V*.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """
    D, s = checks.positive_int("num_patches", num_patches), checks.positive_int("selected", selected)
    if s > D:
        raise ValueError(f"selected must be at most num_patches = {D}, got {s}")
    chosen = torch.rand(D, D, generator=generator).topk(s, dim=1).indices
    return Teacher(torch.zeros(D, D).scatter(1, chosen, 1 / s), _value(dim, outputs, generator), "linear")


def group_sparse(
    num_patches: int, *, dim: int, relevant: int | None = None, generator: Generator | None = None
) -> Teacher:
    """Group-sparse linear classification: y = sign(<v*, X_j*>) depends on one group j* of variables, a patch here.

    Every query of S* reads j*. Source: Zhang, Meng and Cao (arXiv 2504.08638).

    Args:
        num_patches: D, the groups.
        dim: d, the variables of a group.
        relevant: j*; None draws it.
        generator: draws j* and v*.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """
    D = checks.positive_int("num_patches", num_patches)
    drawn = int(torch.randint(D, (1,), generator=generator))
    chosen = drawn if relevant is None else checks.natural("relevant", relevant)
    if chosen >= D:
        raise ValueError(f"relevant must be below num_patches = {D}, got {chosen}")
    attention = torch.zeros(D, D)
    attention[:, chosen] = 1.0
    return Teacher(attention, _value(dim, 1, generator), "sign")


def _value(dim: int, outputs: int, generator: Generator | None) -> Float[Tensor, "d k"]:
    """Random columns of unit norm."""
    shape = checks.positive_int("dim", dim), checks.positive_int("outputs", outputs)
    value = torch.randn(*shape, generator=generator)
    return value / value.norm(dim=0).clamp_min(math.sqrt(torch.finfo(value.dtype).tiny))

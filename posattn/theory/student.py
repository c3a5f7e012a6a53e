"""One layer of attention over positions alone, the student of a structured teacher."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.shapes import Patches
from posattn.theory.simplified import logistic_loss
from posattn.theory.teachers import Outputs, Teacher, read_out


class PositionStudent(nn.Module):
    """φ(S X V) with S = row-softmax(A): ``scores`` A (Q, D) and ``value`` V (d, k) are trained, φ is given.

    Source of the model class: arXiv 2603.22801, one layer with position-only attention.

    Args:
        num_queries: Q.
        num_patches: D.
        dim: d.
        outputs: k.
        head: φ, see ``posattn.theory.teachers``; without its sign.
        init_std: standard deviation of the Gaussian start of A and V.
        generator: draws that start.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        num_queries: int,
        num_patches: int,
        dim: int,
        outputs: int,
        head: str,
        *,
        init_std: float = 1e-2,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.head = checks.known("head", head, ("linear", "relu", "sign"))
        shapes = {"num_queries": num_queries, "num_patches": num_patches, "dim": dim, "outputs": outputs}
        Q, D, d, k = (checks.positive_int(name, size) for name, size in shapes.items())
        init_std = checks.finite("init_std", init_std, 0.0)
        self.scores = nn.Parameter(init_std * torch.randn(Q, D, generator=generator))
        self.value = nn.Parameter(init_std * torch.randn(d, k, generator=generator))

    @classmethod
    def for_teacher(cls, teacher: Teacher, *, generator: Generator | None = None) -> "PositionStudent":
        """A student of the teacher's shapes and head, at its random start."""
        (Q, D), (d, k) = teacher.attention.shape, teacher.value.shape
        return cls(Q, D, d, k, teacher.head, generator=generator)

    def attention(self) -> Float[Tensor, "Q D"]:
        """S."""
        return self.scores.softmax(-1)

    def forward(self, patches: Patches) -> Outputs:
        """(n, Q, k) outputs, or (n, 1, k) logits for ``sign``."""
        return read_out(self.attention() @ (patches @ self.value), self.head)

    def loss(self, outputs: Float[Tensor, "..."], labels: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """The mean squared error, or for ``sign`` the logistic loss. Raises ValueError if the shapes differ."""
        if outputs.shape != labels.shape:
            shapes = f"{tuple(outputs.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"outputs and labels must have one shape, got {shapes}")
        return logistic_loss(outputs, labels) if self.head == "sign" else F.mse_loss(outputs, labels)

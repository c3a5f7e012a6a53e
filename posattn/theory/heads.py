"""Several heads: a sum of simplified ViTs."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from posattn.shapes import Maps, Patches
from posattn.theory.simplified import SimplifiedViT


class Heads(nn.Module):
    """F(X) = Σ_h F_h(X): every head has its own A, v and φ. Trained by ``descend``; not in law, which needs one v.

    Raises ValueError if there is no head, or heads differ in D or d.
    """

    def __init__(self, heads: Iterable[SimplifiedViT]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        shapes = sorted({(head.num_patches, head.dim) for head in self._each()})
        if len(shapes) != 1:
            raise ValueError(f"heads must have one (D, d), got {shapes}")

    def _each(self) -> list[SimplifiedViT]:
        return [head for head in self.heads if isinstance(head, SimplifiedViT)]

    def reset_parameters(self, *, generator: Generator | None = None) -> None:
        """Draw every head again at random."""
        for head in self._each():
            head.reset_parameters(generator=generator)

    def held_scores(self) -> Maps:
        """(h, D, D) scores A of every head, with held diagonals."""
        return torch.stack([head.held_scores() for head in self._each()])

    def attention(self) -> Maps:
        """(h, D, D) S of every head."""
        return torch.stack([head.attention() for head in self._each()])

    def forward(self, patches: Patches) -> Float[Tensor, " n *k"]:
        """(n,) logits."""
        return torch.stack([head(patches) for head in self.heads]).sum(0)

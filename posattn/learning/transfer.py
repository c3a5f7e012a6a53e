"""Transfer: a downstream task learned with the attention of an upstream one, or from scratch.

Source: arXiv 2210.09221, the downstream task (same partition, another feature) and its sample complexity.
"""

from torch import Generator

from posattn.models.simplified import SimplifiedViT


def fresh_start(like: SimplifiedViT, *, generator: Generator | None = None) -> SimplifiedViT:
    """A model of the same setting at its random start."""
    settings = (like.num_patches, like.dim, like.power, like.linear, like.diagonal, like.scale)
    return SimplifiedViT(*settings, generator=generator)


def frozen_attention(learned: SimplifiedViT, *, generator: Generator | None = None) -> SimplifiedViT:
    """A fresh start that keeps the learned attention and trains v alone."""
    model = fresh_start(learned, generator=generator)
    model.scores.data = learned.scores.detach().clone()
    model.scores.requires_grad_(False)
    return model

"""Attention rollout: where the tokens of the last layer look in the image, through all layers."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def attention_rollout(layers: Iterable[Float[Tensor, "h N N"]]) -> Float[Tensor, "N N"]:
    """The product over layers of 0.5·(mean over heads) + 0.5·I, rows normalised, in float64.

    Args:
        layers: the maps of each layer, the first layer first.

    Returns:
        Row i says how much of token i after the last layer comes from each token before the first; rows sum to 1.

    Raises:
        ValueError: there are no layers, or their maps are not all (h, N, N) of one N.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers (ACL 2020), section 3.
    """
    rollout: Tensor | None = None
    for maps in layers:
        tokens = len(maps[0]) if rollout is None else len(rollout)
        if maps.shape[1:] != (tokens, tokens):
            raise ValueError(f"rollout needs maps of one size in every layer, got {tuple(maps.shape)}")
        mixed = 0.5 * maps.double().mean(0) + 0.5 * torch.eye(tokens, dtype=torch.double, device=maps.device)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        rollout = mixed if rollout is None else mixed @ rollout
    if rollout is None:
        raise ValueError("rollout needs at least one layer")
    return rollout

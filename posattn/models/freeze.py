"""Constant attention maps: what is left of positional attention once it is trained."""

import copy

import torch
from timm.models._input import update_model_args
from torch import nn

from posattn import checks
from posattn.models.attention import FrozenMaps, PositionalAttention
from posattn.models.scores import PositionEncodings
from posattn.shapes import Maps


def freeze_attention(model: nn.Module, keep: int | None = None) -> nn.Module:
    """A copy whose attention maps are buffers, without Q, K and P; same outputs where ``keep`` is None.

    timm's ``reparameterize_model`` does the same.

    Args:
        model: a model with positional attention, wholly or in part, also one from ``to_positional``.
        keep: k, entries that each query keeps of its map, its largest, renormalised to sum to 1.

    Raises:
        TypeError, ValueError: no positional attention, maps that are not finite, or k not in 1..N.
    """
    frozen = copy.deepcopy(model)
    for layer in [m for m in frozen.modules() if isinstance(m, PositionalAttention)]:
        layer.reparameterize()
    constant = [m for m in frozen.modules() if isinstance(m, FrozenMaps)]
    if not constant:
        raise ValueError(f"{type(model).__name__} has no positional attention to freeze; see to_positional")
    for module in list(frozen.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PositionEncodings):
                setattr(module, name, child.fuse())
    if keep is not None:
        for maps in constant:
            maps.maps = keep_largest(maps.maps, keep)
    if hasattr(frozen, "score_kind"):
        frozen.score_kind = "frozen"  # type: ignore[assignment]
        update_model_args(frozen, scores="frozen")  # what timm rebuilds a saved model from
    return frozen


def keep_largest(maps: Maps, k: int) -> Maps:
    """Every row's k largest entries, renormalised to sum to 1, the others 0.

    TypeError, ValueError where k is not an integer in 1..N.
    """
    if checks.positive_int("keep", k) > maps.shape[-1]:
        raise ValueError(f"keep must be at most N={maps.shape[-1]}, got {k}")
    values, indices = maps.topk(k, dim=-1)
    return torch.zeros_like(maps).scatter(-1, indices, values / values.sum(-1, keepdim=True))

"""Freezing: positional attention becomes constant attention maps after training."""

from typing import Any

import torch
from jaxtyping import Float, Int
from timm.models._input import update_model_args
from torch import Tensor, nn

from posattn import checks
from posattn.shapes import Maps
from posattn.vision.models.attention import FrozenMaps, dense
from posattn.vision.models.copies import copied
from posattn.vision.models.scores import PositionEncodings

# The largest k / N that is gathered on a CPU rather than multiplied densely. Measured at 384 and 512 px
# (N = 576, 1024; batch 8, 4; ViT-Tiny heads; one thread), the product alone: float32 k = N/9 2.1 times as
# fast, bfloat16 k = N/36 1.4 times, k = N/18 0.8 times.
GATHERED = {torch.float32: 1 / 8, torch.bfloat16: 1 / 32}


def freeze_attention(model: nn.Module, keep: int | None = None) -> nn.Module:
    """A copy whose attention maps are buffers, without Q, K and P; the outputs are the same if ``keep`` is None.

    timm's ``reparameterize_model`` does the same.

    Args:
        model: a model with positional attention, in all or some blocks, or from ``to_positional``.
        keep: k, each query keeps its k largest entries, renormalised to sum to 1; heads by offset keep all. On a CPU,
            few enough entries are gathered instead of multiplied densely. timm rebuilds such a model from
            ``save_for_hf`` with dense maps; freeze it again with the same ``keep`` to gather them.

    Raises:
        TypeError, ValueError: no positional attention, maps that are not finite, k not in 1..N, or k where all heads
            are by offset.
    """
    frozen = copied(model)
    positional = [
        m for m in frozen.modules() if hasattr(m, "attention_maps") and hasattr(m, "reparameterize")
    ]
    for attn in positional:
        attn.reparameterize()  # type: ignore[operator]
    layers = [m for m in frozen.modules() if isinstance(getattr(m, "maps", None), FrozenMaps)]
    if not positional:
        raise ValueError(f"{type(model).__name__} has no positional attention to freeze; see to_positional")
    for module in list(frozen.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PositionEncodings):
                setattr(module, name, child.fuse())
    if keep is not None:
        if not layers:
            raise ValueError(f"keep={keep} is for tables: all heads of the model are by offset")
        for layer in layers:
            prune(layer, keep)
    if hasattr(frozen, "score_kind"):
        frozen.score_kind = "frozen"  # type: ignore[assignment]
        update_model_args(frozen, scores="frozen")  # timm rebuilds a saved model from these
    return frozen


def prune(layer: Any, k: int) -> None:
    """Keep each query's k largest entries of a layer's frozen maps, gathered or dense, whichever is faster."""
    maps = layer.maps.maps if layer.indices is None else dense(layer.maps.maps, layer.indices)
    weights, keys = largest(maps, k)
    h, N, _ = maps.shape
    indices = keys + N * torch.arange(h, device=keys.device)[:, None, None]
    gathered = maps.device.type == "cpu" and k <= GATHERED.get(maps.dtype, 0) * N
    layer.maps = FrozenMaps(weights if gathered else dense(weights, indices))
    layer.indices = indices if gathered else None


def largest(maps: Maps, k: int) -> tuple[Float[Tensor, "*heads D k"], Int[Tensor, "*heads D k"]]:
    """Every row's k largest entries, renormalised to sum to 1, and their columns.

    Raises TypeError, ValueError if k is not an integer in 1..N.
    """
    if checks.positive_int("keep", k) > maps.shape[-1]:
        raise ValueError(f"keep must be at most N={maps.shape[-1]}, got {k}")
    values, columns = maps.topk(k, dim=-1)
    return values / values.sum(-1, keepdim=True), columns

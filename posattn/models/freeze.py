"""Constant attention maps: what is left of positional attention once it is trained."""

import copy

from torch import nn

from posattn.models.attention import PositionalAttention
from posattn.models.scores import PositionEncodings


def freeze_attention(model: nn.Module) -> nn.Module:
    """A copy whose attention maps are buffers, without Q, K and P; same outputs.

    timm's ``reparameterize_model`` does the same.

    Raises:
        ValueError: the model has no positional attention, or its maps are not finite.
    """
    frozen = copy.deepcopy(model)
    layers = [m for m in frozen.modules() if isinstance(m, PositionalAttention)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no positional attention to freeze; see to_positional")
    for layer in layers:
        layer.reparameterize()
    for module in list(frozen.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PositionEncodings):
                setattr(module, name, child.fuse())
    return frozen

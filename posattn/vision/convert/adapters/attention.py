"""The attention of other libraries as timm's, and converted layers with their signatures."""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn


def as_timm(
    weight: Tensor, bias: Tensor | None, proj: nn.Linear, num_heads: int, drop: float, training: bool
) -> Attention:
    """timm's attention with given weights: Q, K and V one below the other, and the output projection."""
    rows, dim = weight.shape
    layer = Attention(
        dim,
        num_heads,
        attn_head_dim=rows // 3 // num_heads,
        dim_out=proj.out_features,
        qkv_bias=bias is not None,
        proj_bias=proj.bias is not None,
        attn_drop=drop,
        device="meta",
    )
    layer.qkv.weight = nn.Parameter(weight, weight.requires_grad)
    if bias is not None:
        layer.qkv.bias = nn.Parameter(bias, weight.requires_grad)
    layer.proj.weight, layer.proj.bias = proj.weight, proj.bias
    return layer.train(training)


def stacked(layers: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The weights of linear layers one below the other, and their biases; zeros for missing ones."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    weight.requires_grad_(layers[0].weight.requires_grad)
    if all(layer.bias is None for layer in layers):
        return weight, None
    zeros = [layer.weight.new_zeros(layer.out_features) for layer in layers]
    biases = [
        z if layer.bias is None else layer.bias.detach() for layer, z in zip(layers, zeros, strict=True)
    ]
    return weight, torch.cat(biases)


class OfTransformers(nn.Module):
    """A converted layer that is called as an attention of transformers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, None]:
        """Raises ValueError if a mask is given.

        In an export the library makes a mask of its own, which masks nothing; one that was given to the model is
        refused before (see ``transformers.guard``).
        """
        mask = None if torch.compiler.is_exporting() else attention_mask
        return self.layer(hidden_states, attn_mask=mask), None


class OfTorchvision(nn.Module):
    """A converted layer that is called as ``nn.MultiheadAttention`` in torchvision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, None]:
        """Self-attention: keys and values are those of the queries."""
        return self.layer(query), None

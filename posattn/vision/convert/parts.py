"""The parts of an attention layer, read in one form from every kind of layer that can be converted."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "gate", "proj")


class Parts(NamedTuple):
    """The parts that a converted layer takes from the layer it replaces."""

    weight: Float[Tensor, "3 h d D"]  # of Q, K and V
    bias: Float[Tensor, "3 h d"] | None
    trainable: bool
    rel_pos: nn.Module | None = None  # adds its (1, h, N, N) biases to the scores


def fused(attn: Any) -> Parts:
    """Q, K and V of one linear layer."""
    shape = (3, attn.num_heads, -1)
    bias = None if attn.qkv.bias is None else attn.qkv.bias.detach().view(shape)
    weight = attn.qkv.weight.detach().view(*shape, attn.qkv.in_features)
    return Parts(weight, bias, attn.qkv.weight.requires_grad)


def rotary(attn: Any) -> Parts:
    """One linear layer or three; keys and values may be shared by groups of heads."""
    if attn.qkv is not None:
        return fused(attn)
    projections = (attn.q_proj, attn.k_proj, attn.v_proj)
    weight = torch.stack([of_every_head(one.weight.detach(), attn) for one in projections])
    biases = [one.bias for one in projections]
    if all(bias is None for bias in biases):
        return Parts(weight, None, attn.q_proj.weight.requires_grad)
    zeros = weight.new_zeros(attn.num_heads, weight.shape[2])
    bias = torch.stack([zeros if b is None else of_every_head(b.detach(), attn) for b in biases])
    return Parts(weight, bias, attn.q_proj.weight.requires_grad)


def of_every_head(rows: Tensor, attn: Any) -> Tensor:
    """(h, d, ...) rows of a projection; a head of a group has the rows of its group."""
    return rows.unflatten(0, (-1, attn.head_dim)).repeat_interleave(
        attn.num_heads * attn.head_dim // rows.shape[0], 0
    )


def with_separate_biases(attn: Any) -> Parts:
    """EVA and BEiT: biases of Q and V apart from the weight, none on K."""
    if attn.qkv is None:
        return rotary(attn)
    weight = attn.qkv.weight.detach().view(3, attn.num_heads, -1, attn.qkv.in_features)
    if attn.q_bias is None:
        return Parts(weight, None, attn.qkv.weight.requires_grad)
    bias = torch.stack([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias]).detach()
    return Parts(weight, bias.view(weight.shape[:3]), attn.qkv.weight.requires_grad)


def beit(attn: Any) -> Parts:
    """BEiT: its own relative biases, where it has any."""
    parts = with_separate_biases(attn)
    if attn.relative_position_bias_table is None:
        return parts
    bias = copy.deepcopy(attn)  # all but the biases goes
    bias.qkv, bias.proj = nn.Identity(), nn.Identity()
    bias.q_bias = bias.v_bias = None
    bias.k_bias = None
    return parts._replace(rel_pos=bias)


def relative(attn: Any) -> Parts:
    """timm's ViTs with relative positions."""
    return fused(attn)._replace(rel_pos=copy.deepcopy(attn.rel_pos))


READERS: dict[type, Callable[[Any], Parts]] = {
    Attention: fused,
    AttentionRope: rotary,
    EvaAttention: with_separate_biases,
    BeitAttention: beit,
    RelPosAttention: relative,
}
"""Readers of the parts of a layer, by its class; layers of other libraries can be added."""


def read_parts(attn: nn.Module) -> Parts:
    """The parts of a layer whose class is in ``READERS``."""
    return READERS[type(attn)](attn)


def computed(layer: nn.Module) -> str | None:
    """Which of weight and bias a layer computes from others, as pruning and parametrizations do; None if neither."""
    held = (name for name in ("weight", "bias") if isinstance(getattr(layer, name, None), Tensor))
    return next((name for name in held if name not in layer._parameters), None)


def linear(parts: Parts, which: Sequence[int], heads: Sequence[int]) -> nn.Linear:
    """A linear layer that computes the chosen ones of Q (0), K (1) and V (2) of these heads in their order."""
    weight = parts.weight[list(which)][:, list(heads)].flatten(0, 2)
    layer = nn.Linear(weight.shape[1], len(weight), parts.bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), parts.trainable)
    if parts.bias is not None:
        bias = parts.bias[list(which)][:, list(heads)].flatten()
        layer.bias = nn.Parameter(bias.clone(), parts.trainable)
    return layer


def reordered(layer: nn.Module, order: Sequence[int], head_dim: int, dim: int = 0) -> Any:
    """A copy of a layer on the concatenated heads, which come in another order: its rows (dim 0) or columns (1)."""
    layer = copy.deepcopy(layer)
    index = (torch.tensor(order)[:, None] * head_dim + torch.arange(head_dim)).flatten()
    for name, value in list(layer.named_parameters(recurse=False)):
        if dim < value.ndim:
            chosen = value.detach().index_select(dim, index.to(value.device))
            setattr(layer, name, nn.Parameter(chosen, value.requires_grad))
    return layer

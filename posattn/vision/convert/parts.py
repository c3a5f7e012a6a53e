"""The parts of an attention layer, read in one form from every kind of layer that can be converted."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

from posattn.vision.models.attention import PositionalAttention

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


def attention_of(model: nn.Module) -> dict[int, nn.Module]:
    """The attention layer of each block, but for those that are positional by construction.

    Raises:
        TypeError: heads of the model cannot be replaced; the module is named.
        ValueError: it has converted heads already, or its tokens vary by image.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not hasattr(model, "patch_embed"):
        raise TypeError(
            f"model must be a timm ViT, with patch_embed and blocks; got {type(model).__name__}, which is not supported"
        )
    layers = {}
    for number, block in enumerate(blocks):
        attn = getattr(block, "attn", None)
        if attn is None:
            raise TypeError(
                f"blocks.{number} ({type(block).__name__}) is not supported: it has no attn to replace"
            )
        if not isinstance(attn, PositionalAttention):
            check_layer(attn, f"blocks.{number}.attn")
            layers[number] = attn
    refuse_varying_tokens(model)
    return layers


def check_layer(attn: nn.Module, path: str) -> None:
    """Raise what ``attention_of`` raises of one layer."""
    if hasattr(attn, "kinds"):
        raise ValueError(f"{path} has converted heads already: convert the original model")
    if type(attn) not in READERS:
        known = ", ".join(sorted({kind.__name__ for kind in READERS}))
        raise TypeError(f"{path} ({type(attn).__name__}) is not supported: it is none of {known}")
    for name in PROJECTIONS:
        layer = getattr(attn, name, None)
        if layer is not None and type(layer) is not nn.Linear:
            raise TypeError(
                f"{path}.{name} ({type(layer).__name__}) is not supported: merge adapters into plain linear layers"
            )


def refuse_varying_tokens(model: Any) -> None:
    """Raise ValueError if the number of tokens varies by image, which constant maps cannot follow."""
    if getattr(model, "dynamic_img_size", False):
        raise ValueError(
            "dynamic_img_size=True: tokens vary by image; create the model with dynamic_img_size=False and img_size"
        )
    rate = getattr(getattr(model, "patch_drop", None), "prob", 0)
    if rate > 0:
        raise ValueError(f"patch_drop_rate={rate}: tokens vary by image; create the model without")

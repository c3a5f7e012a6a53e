"""Mimetic initialisation of a ViT: attention that starts as trained attention looks.

Source: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", ICML 2023, arXiv 2305.09828. The
constants are those of public reimplementations, which agree; they could not be checked against the paper's full text.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn


class Blend(NamedTuple):
    """A random matrix plus a multiple of the identity: noise · Z + identity · I, with Z_ij ~ N(0, 1/d)."""

    noise: float
    identity: float


QUERY_KEY = Blend(0.7, 0.7)  # W_Q W_Kᵀ of every head
VALUE_OUT = Blend(0.4, -0.4)  # W_V W_proj


@torch.no_grad()
def init_mimetic(vit: VisionTransformer) -> VisionTransformer:
    """Initialise the attention layers and position embeddings of a timm ViT in place.

    In every head W_Q W_Kᵀ is the best rank-d_h approximation of 0.7 Z + 0.7 I, and W_V W_proj = 0.4 Z − 0.4 I. Each Z
    is drawn anew from torch's global generator, and both products are split by an SVD. Biases of these layers become 0.
    Position embeddings become two-dimensional sines and cosines of unit amplitude, 0 for a class token and registers.
    All of them are trained, and everything else stays as it is.

    Raises:
        ValueError: a layer of attention is not timm's ``Attention``, or the width is not a multiple of 4.
    """
    if vit.embed_dim % 4:
        raise ValueError(f"embed_dim must be a multiple of 4 for sines and cosines, got {vit.embed_dim}")
    for number, block in enumerate(vit.blocks):
        if not isinstance(block.attn, Attention):
            raise ValueError(f"block {number} must have timm's Attention, got {type(block.attn).__name__}")
        init_attention(block.attn)
    if vit.pos_embed is not None:
        patches = build_sincos2d_pos_embed(vit.patch_embed.grid_size, vit.embed_dim).flatten(0, -2)
        vit.pos_embed.zero_()
        vit.pos_embed[0, -len(patches) :] = patches.to(vit.pos_embed)
    return vit


def init_attention(layer: Any) -> None:
    """The weights of one layer of attention."""
    D, h = layer.proj.in_features, layer.num_heads
    heads = [split(blend(D, QUERY_KEY), D // h) for _ in range(h)]
    value, out = split(blend(D, VALUE_OUT), D)
    query, key = (torch.cat(parts, 1) for parts in zip(*heads, strict=True))
    layer.qkv.weight.copy_(torch.cat([query, key, value], 1).T)
    layer.proj.weight.copy_(out)  # its input is X W_V: y = X W_V outᵀ
    for linear in (layer.qkv, layer.proj):
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def blend(size: int, amounts: Blend) -> Float[Tensor, "d d"]:
    """A draw of a blend."""
    return amounts.noise * torch.randn(size, size) / size**0.5 + amounts.identity * torch.eye(size)


def split(product: Float[Tensor, "d d"], rank: int) -> tuple[Float[Tensor, "d r"], Float[Tensor, "d r"]]:
    """A, B of equal scale whose A Bᵀ is the best approximation of ``product`` of that rank."""
    left, values, right = torch.linalg.svd(product)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root

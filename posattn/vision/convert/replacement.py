"""The layer that takes the place of an attention layer, with constant maps for some of its heads."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import Attention
from torch import nn

from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.choice import WINDOW
from posattn.vision.convert.heads import (
    CONVOLUTION,
    KINDS,
    RELATIVE,
    TABLE,
    ConvolutionHeads,
    DenseHeads,
    FixedGrid,
    OffsetAttentionMaps,
    Place,
    heads_of_kind,
)
from posattn.vision.convert.offsets import OffsetMaps, fit_offsets
from posattn.vision.convert.parts import linear, read_parts, reordered
from posattn.vision.models.attention import FrozenMaps, MapsHNN, PositionalAttention
from posattn.vision.models.scores import Grid


def replacement(
    vit: ViT,
    attn: Any,
    kinds: Mapping[int, str],
    maps: MapsHNN | None,
    window: int = WINDOW,
    grid: Grid | None = None,
) -> nn.Module:
    """A layer in place of the attention of one of the model's blocks, whose parts it takes.

    ``maps`` None: uniform ones. ``grid``: that of the maps, default the model's now.
    """
    grid = grid or vit.grid()
    if maps is not None and maps.shape[-1] != grid.num_tokens:
        raise ValueError(f"attention maps are of {maps.shape[-1]} tokens, the model has {grid.num_tokens}")
    return vit.fit(converted(vit.plain(attn), maps, kinds, vit.place(), grid, window))


def converted(
    attn: Any, maps: MapsHNN | None, kinds: Mapping[int, str], place: Place, grid: Grid, window: int
) -> nn.Module:
    """A layer in place of ``attn``, whose parts it takes, with constant ``maps`` for the heads of ``kinds``.

    Args:
        maps: (h, N, N), of all heads; None for uniform ones, to load others into.
    """
    groups = {
        kind: heads_module(
            kind, None if maps is None else maps[of_kind], len(of_kind), place, grid, window, attn
        )
        for kind in KINDS
        if (of_kind := heads_of_kind(kinds, kind))
    }
    if set(groups) == {TABLE} and len(kinds) == attn.num_heads and is_plain(attn):
        return positional(attn, groups[TABLE]).train(attn.training)
    return ConvertedAttention(attn, kinds, groups).train(attn.training)


def heads_module(
    kind: str, maps: MapsHNN | None, count: int, place: Place, grid: Grid, window: int, attn: Any
) -> Any:
    """The heads of one kind, by the maps that they attended by on average."""
    like = attn.proj.weight
    if kind == TABLE:
        N = grid.num_tokens
        maps = torch.full((count, N, N), 1 / N) if maps is None else maps
        return DenseHeads(FrozenMaps(maps.to(like)), attn.attn_drop, FixedGrid(place, grid.size))
    kernel = window_on(grid, window) if kind == CONVOLUTION else None
    far = kind == CONVOLUTION
    fitted = OffsetMaps(count, grid, kernel, far) if maps is None else fit_offsets(maps, grid, kernel, far)
    fitted = fitted.to(like).requires_grad_(False)
    if kind == RELATIVE:
        return DenseHeads(OffsetAttentionMaps(fitted, place), attn.attn_drop)
    return ConvolutionHeads(fitted, place, attn.attn_drop)


def window_on(grid: Grid, window: int) -> tuple[int, int]:
    """The part of a window that a grid has offsets for."""
    return min(window, 2 * grid.height - 1), min(window, 2 * grid.width - 1)


def is_plain(attn: Any) -> bool:
    """Whether ``PositionalAttention`` supports everything in the layer except its attention."""
    return type(attn) is Attention and attn.gate is None and attn.attn_dim == attn.proj.out_features


def positional(attn: Any, tables: DenseHeads) -> PositionalAttention:
    """Positional attention with the values and the output projection of ``attn``."""
    heads = range(attn.num_heads)
    layer = PositionalAttention(attn.attn_dim, attn.num_heads, device="meta")
    layer.v = linear(read_parts(attn), [2], heads)
    layer.attn_drop, layer.proj_drop = attn.attn_drop, attn.proj_drop
    layer.norm = reordered(attn.norm, heads, attn.head_dim)
    layer.proj = reordered(attn.proj, heads, attn.head_dim, dim=1)
    layer.fixed_grid = tables.fixed_grid
    return layer.attach(tables.maps)

"""The heads of a converted layer: by constant maps, kept as tables, by offset or as convolutions, or by content."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat, register_notrace_module
from torch import Tensor, nn

from posattn.vision.convert.offsets import OffsetMaps
from posattn.vision.convert.parts import Parts, linear
from posattn.vision.models.attention import AttentionMaps, MapsHNN, dense
from posattn.vision.models.mixing import mix_tokens
from posattn.vision.models.scores import Grid, Start, TableScores

TABLE, RELATIVE, CONVOLUTION = KINDS = ("table", "relative", "convolution")
"""How a converted head is kept, in the order in which a layer holds them; its content-based heads come last."""


class Place:
    """The grid of patches that a model has now, from the module that knows it, which stays the model's."""

    def __init__(self, embed: nn.Module) -> None:
        self.embed: Any = embed

    def size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        if hasattr(self.embed, "grid_size"):
            height, width = self.embed.grid_size
            return height, width
        image, patch = (
            (side, side) if isinstance(side, int) else side
            for side in (self.embed.image_size, self.embed.patch_size)
        )
        return image[0] // patch[0], image[1] // patch[1]


class FixedGrid:
    """The one grid of patches (rows, columns) that tables serve, and the place where the model has its grid now."""

    def __init__(self, place: Place, size: tuple[int, int]) -> None:
        self.place, self.size = place, size

    def check(self) -> None:
        """Raise ValueError if the model has another grid now, be it of as many patches."""
        if (now := self.place.size()) != self.size:
            raise ValueError(
                f"tables are for a grid of {self.size}, the model's is {now} now: "
                "convert at that size, or with relative maps or convolutions"
            )


@register_notrace_module
class OffsetAttentionMaps(AttentionMaps):
    """Dense maps made of offset maps for the grid that ``place`` says; kept in evaluation while it stays."""

    def __init__(self, scores: OffsetMaps, place: Place) -> None:
        super().__init__(scores)
        self.place = place

    @no_type_check  # traced
    def compute(self, positions: Tensor | None) -> MapsHNN:
        return self.scores.dense(self.place.size())

    def place_now(self) -> tuple[int, int]:
        """The grid, which the dense maps are for."""
        return self.place.size()


class DenseHeads(nn.Module):
    """Heads that attend by dense maps, (h, N, N), whatever module gives them; ``grid`` is that of tables."""

    indices: Tensor | None

    def __init__(self, maps: nn.Module, attn_drop: nn.Dropout, grid: FixedGrid | None = None) -> None:
        super().__init__()
        self.maps, self.attn_drop, self.fixed_grid = maps, attn_drop, grid
        self.register_buffer("indices", None)  # of pruned maps

    @no_type_check  # traced and scripted
    def forward(self, values: Tensor) -> Tensor:
        maps = self.maps(None) if torch.jit.is_scripting() else self.maps(self._positions())
        return mix_tokens(self.attn_drop(maps), values, self.indices)

    @no_type_check  # traced
    def _positions(self) -> Tensor | None:
        """None, once the grid is checked."""
        if self.fixed_grid is not None:
            self.fixed_grid.check()
        return None

    def attention_maps(self) -> MapsHNN:
        """S, the (h, N, N) maps, a copy."""
        maps = self.maps(None)
        return maps.clone() if self.indices is None else dense(maps, self.indices)


@register_notrace_module
class ConvolutionHeads(nn.Module):
    """Heads that attend by offset within a window: a depthwise convolution, of a cost linear in N."""

    def __init__(self, maps: OffsetMaps, place: Place, attn_drop: nn.Dropout) -> None:
        super().__init__()
        self.maps, self.place, self.attn_drop = maps, place, attn_drop

    @no_type_check  # traced
    def forward(self, values: Tensor) -> Tensor:
        size, prefix = self.place.size(), self.maps.own_grid.prefix
        if values.shape[1] != prefix + size[0] * size[1]:
            raise ValueError(f"attention maps are for a grid of {size}, got {values.shape[1]} tokens")
        kernel, rows, shares = self.maps.on(size)  # logarithms: in their own type until they are weights
        heads = values.unflatten(2, (kernel.shape[0], -1))  # (B, N, p, d)
        patches = values[:, prefix:]
        weight = self.attn_drop((kernel - kernel.amax((1, 2), keepdim=True)).exp())
        pad = (kernel.shape[1] // 2, kernel.shape[2] // 2)
        total = F.conv2d(
            weight.new_ones(1, len(weight), *size), weight[:, None], padding=pad, groups=len(weight)
        )
        # 0 where dropout leaves a patch no weight
        total = total.flatten(2)[0].clamp(min=torch.finfo(total.dtype).tiny)
        scale = (shares[..., -1] / total).to(values.dtype)  # (p, D)
        weight, rows, shares = (part.to(values.dtype) for part in (weight, rows, shares))
        image = patches.transpose(1, 2).unflatten(2, size)
        filters = weight.repeat_interleave(heads.shape[3], 0)[:, None]
        near = F.conv2d(image, filters, padding=pad, groups=patches.shape[2])
        near = near.flatten(2).transpose(1, 2).unflatten(2, (kernel.shape[0], -1)) * scale.T[..., None]
        others = heads[:, :prefix]
        if self.maps.far:
            others = torch.cat([others, heads[:, prefix:].mean(1, keepdim=True)], 1)  # (B, K, p, d)
        near = near + torch.einsum("pdk,bkpc->bdpc", shares[..., :-1], others)
        first = torch.einsum("pkn,bnpc->bkpc", rows, heads)
        return torch.cat([first, near], 1).flatten(2)

    def attention_maps(self) -> MapsHNN:
        """S, the (p, N, N) maps equivalent to the convolution."""
        return self.maps.dense(self.place.size())


class ContentHeads(nn.Module):
    """The heads of a layer that attend by content as before: with its norms, rotation and relative biases."""

    def __init__(self, attn: Any, parts: Parts, heads: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.num_heads = list(heads), attn.num_heads
        self.qk = linear(parts, [0, 1], heads)
        self.q_norm, self.k_norm = (
            copy.deepcopy(getattr(attn, name, nn.Identity())) for name in ("q_norm", "k_norm")
        )
        self.attn_drop = attn.attn_drop
        self.prefix, self.rotate_half = (
            getattr(attn, "num_prefix_tokens", 0),
            bool(getattr(attn, "rotate_half", False)),
        )
        self.bias = parts.rel_pos

    @no_type_check  # traced and scripted
    def forward(self, x: Tensor, values: Tensor, rope: Tensor | None, shared_bias: Tensor | None) -> Tensor:
        query, key = self.qk(x).unflatten(2, (2, len(self.heads), -1)).permute(2, 0, 3, 1, 4).unbind(0)
        value = values.unflatten(2, (len(self.heads), -1)).transpose(1, 2)
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            query, key = self.rotated(query, rope).type_as(value), self.rotated(key, rope).type_as(value)
        dropout = self.attn_drop.p if self.training else 0.0
        bias: Tensor | None = None
        if self.bias is not None or shared_bias is not None:
            bias = self.biases(shared_bias)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2)

    @torch.jit.unused
    @no_type_check
    def rotated(self, x: Tensor, rope: Tensor) -> Tensor:
        """Queries or keys with the rotation of their place; it may differ by head."""
        if rope.dim() > 2 and rope.shape[-3] == self.num_heads:
            rope = rope[..., self.heads, :, :]
        turned = apply_rot_embed_cat(x[:, :, self.prefix :], rope, half=self.rotate_half)
        return torch.cat([x[:, :, : self.prefix], turned], 2)

    @torch.jit.unused
    @no_type_check
    def biases(self, shared: Tensor | None) -> Tensor | None:
        """The relative biases of these heads."""
        own = None
        if self.bias is not None:
            own = (
                self.bias._get_rel_pos_bias()
                if hasattr(self.bias, "_get_rel_pos_bias")
                else self.bias.get_bias()
            )
        if own is not None and shared is not None and hasattr(self.bias, "_get_rel_pos_bias"):
            own = own + shared
        found = shared if own is None else own
        return None if found is None else found[..., self.heads, :, :]


@torch.no_grad()
def log_table(maps: MapsHNN) -> AttentionMaps:
    """Maps that can be trained, from constant ones: the softmax of the logarithms of their entries."""
    scores = TableScores(Grid(1, maps.shape[-1]), 0, len(maps), Start(), device="meta")  # draws nothing
    scores.table = nn.Parameter(maps.clamp(min=1e-10).log())
    return AttentionMaps(scores)


def heads_of_kind(kinds: Mapping[int, str], kind: str) -> list[int]:
    """The heads of that kind."""
    return sorted(head for head, own in kinds.items() if own == kind)

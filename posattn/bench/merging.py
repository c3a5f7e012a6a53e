"""Token merging, written for the bench to compare converted models with; see ``frontier``.

Source: Bolya et al., Token Merging, arXiv 2210.09461. After the attention of every block, r tokens are merged away:
tokens are split alternately into A and B, each of A is matched with the token of B whose key is most similar, the r
most similar pairs are averaged by size, and attention adds the logarithm of the sizes to the scores of its keys.
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from posattn import checks

Tokens = Float[Tensor, "n N d"]
Merged = Float[Tensor, "n M d"]


class Matching(NamedTuple):
    """Which tokens of A go into which of B; A are the tokens at even places, B those at odd ones."""

    kept: Int[Tensor, "n k"]  # numbers in A of the tokens that stay, in order
    merged: Int[Tensor, "n r"]  # numbers in A of those that go
    into: Int[Tensor, "n r"]  # the number in B of the token that each goes into


def match(keys: Tokens, r: int, prefix: int) -> Matching:
    """The r most similar pairs by the cosine of their keys, at most half of the tokens.

    The first ``prefix`` tokens neither merge nor are merged into.
    """
    unit = F.normalize(keys, dim=-1)
    even, odd = unit[:, ::2], unit[:, 1::2]
    similar = even @ odd.transpose(1, 2)
    similar[:, : (prefix + 1) // 2] = -torch.inf
    similar[:, :, : prefix // 2] = -torch.inf
    closest, place = similar.max(2)
    order = closest.argsort(1, descending=True)
    r = min(r, (keys.shape[1] - prefix) // 2)
    merged = order[:, :r]
    return Matching(order[:, r:].sort(1).values, merged, place.gather(1, merged))


def sums(values: Tokens, matching: Matching, prefix: int) -> Merged:
    """The prefix, the other tokens of A that stay, then those of B, to which the merged ones are added."""
    even, odd = values[:, ::2], values[:, 1::2]
    kept, merged, into = (index[..., None].expand(-1, -1, values.shape[2]) for index in matching)
    stay, grown = even.gather(1, kept), odd.scatter_add(1, into, even.gather(1, merged))
    return torch.cat([values[:, :prefix], stay[:, (prefix + 1) // 2 :], grown[:, prefix // 2 :]], 1)


def merge(
    tokens: Tokens, sizes: Float[Tensor, "n N 1"], matching: Matching, prefix: int
) -> tuple[Merged, Float[Tensor, "n M 1"]]:
    """The averages of merged tokens, weighted by size, and their sizes; the prefix stays in front."""
    total = sums(sizes, matching, prefix)
    return sums(tokens * sizes, matching, prefix) / total, total


class Sizes:
    """The sizes of the tokens between the blocks of a model; None where none was merged yet."""

    value: Tensor | None = None


class MergingBlock(nn.Module):
    """A timm block that merges r tokens between its attention and its MLP."""

    def __init__(self, block: Any, r: int, prefix: int, sizes: Sizes, first: bool) -> None:
        super().__init__()
        self.block, self.r, self.prefix, self.sizes, self.first = block, r, prefix, sizes, first

    def forward(self, x: Tokens) -> Merged:
        block = self.block
        if self.first:
            self.sizes.value = None
        mixed, keys = attend(block.attn, block.norm1(x), self.sizes.value)
        x = x + block.drop_path1(block.ls1(mixed))
        if self.r:
            sizes = x.new_ones(*x.shape[:2], 1) if self.sizes.value is None else self.sizes.value
            x, self.sizes.value = merge(x, sizes, match(keys, self.r, self.prefix), self.prefix)
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def attend(
    attn: Any, x: Tokens, sizes: Float[Tensor, "n N 1"] | None
) -> tuple[Tokens, Float[Tensor, "n N e"]]:
    """Attention, fused, where a key counts as often as its size; and the keys, averaged over heads."""
    qkv = attn.qkv(x).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = attn.q_norm(qkv[0]), attn.k_norm(qkv[1]), qkv[2]
    bias = None if sizes is None else sizes.log().transpose(1, 2)[:, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attn.proj_drop(attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2)))), key.mean(1)


def merge_tokens(vit: nn.Module, r: int) -> Any:
    """A copy of a timm ViT in evaluation mode that merges r tokens in each block.

    Raises TypeError for blocks that are not timm's plain ones, and where tokens are averaged at the end.
    """
    checks.natural("r", r)
    model: Any = copy.deepcopy(vit).eval()
    sizes = Sizes()
    for number, block in enumerate(model.blocks):
        if type(block) is not Block or type(block.attn) is not Attention:
            raise TypeError(
                f"blocks.{number} ({type(block).__name__}) is not supported: tokens merge in plain blocks"
            )
        model.blocks[number] = MergingBlock(block, r, model.num_prefix_tokens, sizes, number == 0)
    if model.global_pool != "token":
        raise TypeError(
            f"global_pool={model.global_pool!r} is not supported: a merged token would count as one patch"
        )
    return model

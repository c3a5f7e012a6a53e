"""Any timm ViT with some of its attention replaced by constant maps: the average of what it attends to."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Attention
from timm.models import VisionTransformer
from torch import Tensor, nn

from posattn.vision.inspect.watch import watch_attention
from posattn.vision.models.attention import FrozenMaps, MapsHNN, PositionalAttention, mix_tokens

Heads = Mapping[int, Sequence[int]]  # block number to heads


def to_positional(
    vit: nn.Module,
    images: Tensor | Iterable[Any],
    blocks: Sequence[int] | None = None,
    heads: Heads | Sequence[int] | None = None,
) -> VisionTransformer:
    """A copy of ``vit`` in which chosen heads attend by constant maps, their average attention over
    ``images``.

    The other heads stay content-based, in the same block where only some of it is replaced. Everything but
    the maps trains further.

    Args:
        vit: any timm VisionTransformer with timm's ``Attention``; its blocks that are positional already stay
            so.
        images: (n, c, H, W), or an iterable of such batches, or of tuples that begin with one (a data
            loader). What is averaged is summed batch by batch, every image counting the same.
        blocks: numbers of the blocks to convert; None for all that are content-based.
        heads: numbers of the heads to convert in each of ``blocks``, None for all; or a mapping from block to
            heads, in place of ``blocks``.

    Raises:
        TypeError: ``vit`` is no VisionTransformer, or a block has another attention than timm's.
        ValueError: a block or head that does not exist, no images, or maps that are not finite.
    """
    if not isinstance(vit, VisionTransformer):
        raise TypeError(f"vit must be a timm VisionTransformer, got {type(vit).__name__}")
    chosen = chosen_heads(vit, blocks, heads)
    return replace_heads(vit, average_maps(vit, images, list(chosen)), chosen)


def average_maps(
    vit: VisionTransformer, images: Tensor | Iterable[Any], blocks: Sequence[int]
) -> dict[int, MapsHNN]:
    """The mean attention map of every head of the named blocks over the images, in float32.

    Fused attention stays on: the maps come from Q and K recomputed out of each layer's own input.
    Arguments and errors are those of ``to_positional``.
    """
    sums: dict[int, Tensor] = {}

    def add(number: int, maps: Tensor, batch: Tensor) -> None:
        sums[number] = sums.get(number, torch.zeros(())).to(maps) + maps.sum(0)

    layers: dict[int, Any] = {number: vit.blocks[number].attn for number in blocks}
    count = watch_attention(vit, images, layers, add)
    if count == 0:
        raise ValueError("images is empty: average attention needs at least one image")
    for number, maps in sums.items():
        if not maps.isfinite().all():
            raise ValueError(f"the average attention of block {number} is not finite over {count} images")
    return {number: maps / count for number, maps in sums.items()}


def replace_heads(vit: VisionTransformer, maps: Mapping[int, MapsHNN], heads: Heads) -> VisionTransformer:
    """A copy of ``vit`` whose ``heads`` attend by ``maps``, the (h, N, N) maps of all heads of each block."""
    model: Any = copy.deepcopy(vit)
    for number, chosen in heads.items():
        if chosen:
            attn = model.blocks[number].attn
            model.blocks[number].attn = converted(attn, maps[number][list(chosen)], list(chosen))
    return model.train(vit.training)


def converted(attn: Attention, maps: Float[Tensor, "p N N"], heads: list[int]) -> nn.Module:
    """A layer with constant ``maps`` for ``heads``, content-based for the others if there are any."""
    others = [head for head in range(attn.num_heads) if head not in heads]
    constant = FrozenMaps(maps.to(attn.qkv.weight))
    layer = MixedAttention(attn, constant, heads, others) if others else positional(attn, constant, heads)
    return layer.train(attn.training)


def positional(attn: Attention, maps: FrozenMaps, heads: list[int]) -> PositionalAttention:
    """Positional attention with the values and the output projection of ``attn``."""
    layer = PositionalAttention(attn.attn_dim, attn.num_heads, device="meta")
    layer.v = rows(attn.qkv, channels(attn, heads, part=2))
    layer.attn_drop, layer.proj_drop = attn.attn_drop, attn.proj_drop
    layer.norm, layer.proj = permuted_output(attn, heads)
    return layer.attach(maps)


class MixedAttention(nn.Module):
    """Attention whose first heads are positional, by constant ``maps``, and whose other heads are
    content-based.

    Heads are reordered to stand so, in the values as in the output projection.
    """

    def __init__(self, attn: Attention, maps: FrozenMaps, heads: list[int], others: list[int]) -> None:
        super().__init__()
        self.maps = maps
        self.register_buffer("indices", None)  # of pruned maps
        self.num_heads = attn.num_heads
        self.head_dim, self.split = attn.head_dim, attn.head_dim * len(heads)
        queries, keys = (channels(attn, others, part) for part in (0, 1))
        self.qk = rows(attn.qkv, torch.cat([queries, keys]))
        self.q_norm, self.k_norm = attn.q_norm, attn.k_norm
        self.v = rows(attn.qkv, channels(attn, [*heads, *others], part=2))
        self.attn_drop, self.proj_drop = attn.attn_drop, attn.proj_drop
        self.norm, self.proj = permuted_output(attn, [*heads, *others])

    @no_type_check  # traced and scripted
    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        values = self.v(x)
        maps = self.attn_drop(self.maps(None))
        by_place = mix_tokens(maps, values[..., : self.split], self.indices, attn_mask, is_causal)
        query, key = self.qk(x).unflatten(2, (2, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        value = values[..., self.split :].unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        dropout = self.attn_drop.p if self.training else 0.0
        by_content = F.scaled_dot_product_attention(
            self.q_norm(query), self.k_norm(key), value, dropout_p=dropout
        )
        x = torch.cat([by_place, by_content.transpose(1, 2).flatten(2)], 2)
        return self.proj_drop(self.proj(self.norm(x)))

    def attention_maps(self) -> MapsHNN:
        """S, the (p, N, N) maps of the positional heads."""
        return self.maps(None)


def channels(attn: Attention, heads: Sequence[int], part: int) -> Tensor:
    """The rows of ``qkv`` that hold these heads of Q (part 0), K (1) or V (2), in their order."""
    of_heads = torch.arange(attn.attn_dim).view(attn.num_heads, attn.head_dim)[list(heads)]
    return of_heads.flatten() + part * attn.attn_dim


def rows(linear: nn.Linear, chosen: Tensor) -> nn.Linear:
    """A linear layer of the chosen outputs of another."""
    layer = nn.Linear(linear.in_features, len(chosen), linear.bias is not None, device="meta")
    return with_parameters(layer, linear, lambda value: value[chosen])


def permuted_output(attn: Attention, heads: Sequence[int]) -> tuple[nn.Module, nn.Linear]:
    """The norm and projection of the concatenated heads, for heads in another order."""
    order = channels(attn, heads, part=0)
    norm = with_parameters(copy.deepcopy(attn.norm), attn.norm, lambda value: value[order])
    proj = copy.deepcopy(attn.proj)
    proj.weight = nn.Parameter(attn.proj.weight[:, order].detach(), attn.proj.weight.requires_grad)
    return norm, proj


def with_parameters(layer: Any, source: nn.Module, choose: Any) -> Any:
    """``layer`` with what ``choose`` takes from the parameters of ``source``."""
    for name, value in source.named_parameters(recurse=False):
        setattr(layer, name, nn.Parameter(choose(value.detach()), value.requires_grad))
    return layer


def chosen_heads(
    vit: VisionTransformer, blocks: Sequence[int] | None, heads: Heads | Sequence[int] | None
) -> dict[int, list[int]]:
    """The heads to convert of every block to convert."""
    if isinstance(heads, Mapping):
        if blocks is not None:
            raise ValueError(f"heads names its blocks already, got blocks={list(blocks)} besides")
        blocks = list(heads)
    if blocks is None:
        blocks = [i for i, block in enumerate(vit.blocks) if not hasattr(block.attn, "maps")]
    return {number: heads_of(vit, number, heads) for number in blocks}


def heads_of(vit: VisionTransformer, number: int, heads: Heads | Sequence[int] | None) -> list[int]:
    """The heads to convert of block ``number``, checked."""
    if number not in range(len(vit.blocks)):
        raise ValueError(f"block {number} does not exist: the model has blocks 0..{len(vit.blocks) - 1}")
    attn = vit.blocks[number].attn
    if type(attn) is not Attention or attn.gate is not None:
        raise TypeError(f"block {number} has {type(attn).__name__}: timm's ungated Attention is needed")
    wanted = heads[number] if isinstance(heads, Mapping) else heads
    chosen = list(range(attn.num_heads)) if wanted is None else list(dict.fromkeys(wanted))
    if missing := [head for head in chosen if head not in range(attn.num_heads)]:
        raise ValueError(f"block {number} has heads 0..{attn.num_heads - 1}, got {missing}")
    return chosen

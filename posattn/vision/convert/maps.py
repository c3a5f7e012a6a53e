"""Conversion of a timm ViT: attention heads are replaced by constant maps, their average attention."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Attention
from torch import Tensor, nn

from posattn import checks
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT, refuse_other_grid
from posattn.vision.convert.attention import ConvertedAttention
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
from posattn.vision.convert.layers import attention_of, count_heads
from posattn.vision.convert.offsets import OffsetMaps, fit_offsets
from posattn.vision.convert.parts import linear, read_parts, reordered
from posattn.vision.inspect.average import positionality
from posattn.vision.inspect.batches import batches
from posattn.vision.inspect.watch import watch_attention
from posattn.vision.models.attention import FrozenMaps, MapsHNN, PositionalAttention
from posattn.vision.models.copies import copied
from posattn.vision.models.scores import Grid

Heads = Mapping[int, Sequence[int]]  # block number to heads
Kinds = Mapping[int, Mapping[int, str]]  # block number to heads, each with how it is kept
WINDOW = 9  # rows and columns of offsets of a convolution
BATCH = 64  # images in a forward pass


class MapStatistics(NamedTuple):
    """The attention maps of a block over images."""

    mean: MapsHNN  # in float32
    variation: Float[Tensor, " h"]  # variance over images, summed over the entries of a map
    positionality: Float[Tensor, " h"]  # see ``posattn.vision.inspect.average.positionality``


def to_positional(
    vit: nn.Module,
    images: Tensor | Iterable[Any],
    blocks: Sequence[int] | None = None,
    heads: Heads | Kinds | Sequence[int] | None = None,
    kind: str = TABLE,
    window: int = WINDOW,
) -> Any:
    """A copy of ``vit`` in which chosen heads attend by constant maps, their average attention over ``images``.

    The other heads stay content-based, in the same block where only some of it is replaced. Everything but the maps
    trains further; ``recover`` trains the maps too.

    Args:
        vit: a timm ViT, DeiT, EVA, BEiT or ViT with relative positions, CLIP's and SigLIP's image towers among them;
            transformers' ViT, DeiT, ViT-MSN or DINOv2, with any head; torchvision's VisionTransformer.
            Blocks that are positional already stay so.
        images: (n, c, H, W), or an iterable of such batches, or of tuples that begin with one (a data
            loader). What is averaged is summed batch by batch, every image counting the same.
        blocks: numbers of the blocks to convert; None for all that are content-based.
        heads: numbers of the heads to convert in each of ``blocks``, None for all; or a mapping from block to
            heads, in place of ``blocks``; or a mapping from block to a mapping from head to its kind.
        kind: ``table`` (a map for the model's image size), ``relative`` (averaged over offsets, resampled when the
            size changes) or ``convolution`` (by offset within ``window``, the rest spread evenly; linear in N).
        window: rows and columns of offsets that a convolution holds, odd; those beyond the grid are ignored.

    Raises:
        TypeError: heads of ``vit`` cannot be replaced; the module is named.
        ValueError: a block, head or kind that does not exist, no images, images of another size than the model's,
            or maps that are not finite.
    """
    layers = attention_of(vit)
    chosen = chosen_heads(layers, blocks, heads, kind)
    check_window(window)
    return replace_heads(vit, average_maps(vit, images, list(chosen)), chosen, window)


def average_maps(vit: nn.Module, images: Tensor | Iterable[Any], blocks: Sequence[int]) -> dict[int, MapsHNN]:
    """The mean attention map of every head of the named blocks over the images, in float32.

    Fused attention stays on: the maps come from Q and K recomputed out of each layer's own input.
    Arguments and errors are those of ``to_positional``.
    """
    return {number: found.mean for number, found in map_statistics(vit, images, blocks).items()}


def map_statistics(
    vit: nn.Module, images: Tensor | Iterable[Any], blocks: Sequence[int]
) -> dict[int, MapStatistics]:
    """Mean, variation and positionality of the maps of every head of the named blocks; see ``average_maps``.

    Variation and positionality are NaN for a single image.
    """
    sums: dict[int, Tensor] = {}
    squares: dict[int, Tensor] = {}

    def add(number: int, maps: Tensor, batch: Tensor) -> None:
        maps = maps.expand(len(batch), -1, -1, -1)
        sums[number] = sums.get(number, torch.zeros(())).to(maps) + maps.sum(0)
        square = (maps - 1 / maps.shape[-1]).flatten(2).norm(dim=2).cpu().double().square().sum(0)
        squares[number] = squares.get(number, torch.zeros(())).to(square) + square

    adapter = adapter_of(vit)
    layers = {number: adapter.attention(number) for number in blocks}
    count = watch_attention(vit, sized(adapter, images), layers, add)
    if count == 0:
        raise ValueError("images is empty: average attention needs at least one image")
    for number, maps in sums.items():
        if not maps.isfinite().all():
            raise ValueError(f"the average attention of block {number} is not finite over {count} images")
    return {number: statistics(maps / count, squares[number] / count, count) for number, maps in sums.items()}


def sized(vit: ViT, images: Tensor | Iterable[Any]) -> Iterator[Tensor]:
    """Batches of images. Raises ValueError for images of another size than the model's."""
    for batch in batches(images, BATCH):
        refuse_other_grid(batch.shape[2:], vit.image_size, vit.patch_size)
        yield batch


def statistics(mean: MapsHNN, square: Float[Tensor, " h"], count: int) -> MapStatistics:
    """From the mean of the maps and of their squared distance from the uniform one."""
    if count == 1:
        unknown = torch.full_like(square, torch.nan)
        return MapStatistics(mean, unknown, unknown)
    explained = (mean - 1 / mean.shape[-1]).flatten(1).norm(dim=1).cpu().double().square()
    spread = (square - explained).clamp(min=0) * count / (count - 1)
    return MapStatistics(mean, spread, positionality(mean, square, count))


def replace_heads(
    vit: nn.Module, maps: Mapping[int, MapsHNN], heads: Heads | Kinds, window: int = WINDOW
) -> Any:
    """A copy of ``vit`` whose ``heads`` attend by ``maps``, the (h, N, N) maps of all heads of each block."""
    model = copied(vit)
    adapter = adapter_of(model)
    kinds = {number: with_kinds(chosen) for number, chosen in heads.items() if len(chosen)}
    for number, of_block in kinds.items():
        adapter.replace(
            number, replacement(adapter, adapter.attention(number), of_block, maps[number], window)
        )
    record(adapter, kinds, window)
    return model


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


def record(vit: ViT, kinds: Kinds, window: int) -> None:
    """Add the kinds of newly converted heads to the record in the model."""
    if not kinds:
        return
    before = (vit.converted() or {"heads": {}})["heads"]
    now = {
        str(number): {str(head): kind for head, kind in of_block.items()}
        for number, of_block in kinds.items()
    }
    vit.record({"heads": {**before, **now}, "grid": list(vit.grid()), "window": window})


def with_kinds(heads: Sequence[int] | Mapping[int, str], kind: str = TABLE) -> dict[int, str]:
    """Each head with its kind; default: ``table``."""
    return dict(sorted(heads.items())) if isinstance(heads, Mapping) else dict.fromkeys(sorted(heads), kind)


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


def check_window(window: int) -> None:
    """Raise ValueError for a window that is not odd and positive."""
    if checks.positive_int("window", window) % 2 == 0:
        raise ValueError(f"window must be odd, got {window}")


def chosen_heads(
    layers: Mapping[int, Any],
    blocks: Sequence[int] | None,
    heads: Heads | Kinds | Sequence[int] | None,
    kind: str = TABLE,
) -> dict[int, dict[int, str]]:
    """The heads to convert of every block to convert, each with how it is kept."""
    if isinstance(heads, Mapping):
        if blocks is not None:
            raise ValueError(f"heads names its blocks already, got blocks={list(blocks)} besides")
        blocks = list(heads)
    if isinstance(blocks, int):
        raise TypeError(f"blocks must be a list of numbers, got {blocks}")
    blocks = list(layers) if blocks is None else blocks
    return {number: heads_of(layers, number, heads, kind) for number in blocks}


def heads_of(
    layers: Mapping[int, Any], number: int, heads: Heads | Kinds | Sequence[int] | None, kind: str
) -> dict[int, str]:
    """The heads to convert of block ``number``, checked, each with how it is kept."""
    if checks.natural("block", number) not in layers:
        raise ValueError(
            f"block {number} has no attention to convert; content-based are blocks: {listed(layers)}"
        )
    count = count_heads(layers[number])
    wanted = heads[number] if isinstance(heads, Mapping) else heads
    if isinstance(wanted, int):
        raise TypeError(f"heads must be a list of numbers, got {wanted}")
    chosen = with_kinds(range(count) if wanted is None else wanted, kind)
    for head, own in chosen.items():
        if isinstance(head, bool) or head not in range(count):
            raise ValueError(f"block {number} has heads 0..{count - 1}, got {head}")
        checks.known("kind", own, KINDS)
    return chosen


def listed(numbers: Iterable[int]) -> str:
    """Numbers as text."""
    return ", ".join(map(str, numbers)) or "none"


__all__ = ["CONVOLUTION", "KINDS", "RELATIVE", "TABLE", "average_maps", "replace_heads", "to_positional"]

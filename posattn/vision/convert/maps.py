"""Conversion of a ViT: attention heads are replaced by constant maps, their average attention."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.averages import average_maps
from posattn.vision.convert.choice import WINDOW, Heads, Kinds, check_window, chosen_heads, with_kinds
from posattn.vision.convert.heads import TABLE
from posattn.vision.convert.layers import attention_of
from posattn.vision.convert.replacement import replacement
from posattn.vision.models.attention import MapsHNN
from posattn.vision.models.copies import copied


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

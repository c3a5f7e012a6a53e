"""The attention maps of a model over images: their average, and how far images differ from it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT, refuse_other_grid
from posattn.vision.inspect.average import positionality
from posattn.vision.inspect.batches import batches
from posattn.vision.inspect.watch import watch_attention
from posattn.vision.models.attention import MapsHNN

BATCH = 64  # images in a forward pass


class MapStatistics(NamedTuple):
    """The attention maps of a block over images."""

    mean: MapsHNN  # in float32
    variation: Float[Tensor, " h"]  # variance over images, summed over the entries of a map
    positionality: Float[Tensor, " h"]  # see ``posattn.vision.inspect.average.positionality``


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

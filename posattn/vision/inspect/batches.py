"""Batches of images, from whatever holds them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEYS = ("pixel_values", "image", "images", "img")


def batches(images: Any, batch_size: int) -> Iterator[Tensor]:
    """Batches (n, c, H, W) of at most ``batch_size`` images.

    Args:
        images: a tensor or numpy array (n, c, H, W); a mapping that holds one as ``pixel_values``, ``image``,
            ``images`` or ``img``; or an iterable of such, of pictures (c, H, W), or of tuples that begin with
            one (a data loader).

    Raises:
        TypeError: anything else, or whole numbers (a model takes normalised floats).
        ValueError: a tensor of other than four axes.
    """
    if isinstance(images, Tensor | np.ndarray | Mapping) or hasattr(images, "keys"):
        yield from split(as_batch(images), batch_size)
    elif isinstance(images, Iterable) and not isinstance(images, str | bytes):
        for item in images:
            single = isinstance(item, Tensor | np.ndarray) and item.ndim == 3
            yield from split(as_batch(item[None] if single else item), batch_size)
    else:
        raise TypeError(
            f"images must be a tensor, an array or an iterable of batches, got {type(images).__name__}"
        )


def split(batch: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The parts of a batch that have images."""
    yield from (part for part in batch.split(batch_size) if len(part))


def as_batch(item: Any) -> Tensor:
    """One batch (n, c, H, W) out of an item of a data loader."""
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item)
    if isinstance(item, Tensor):
        return checked(item)
    if isinstance(item, Mapping) or hasattr(item, "keys"):
        return as_batch(item[key_of(item)])
    if isinstance(item, list | tuple) and item:
        if isinstance(item, list) and all(
            isinstance(one, Tensor | np.ndarray) and one.ndim == 3 for one in item
        ):
            return torch.cat([as_batch(one[None]) for one in item])
        return as_batch(item[0])
    raise TypeError(
        f"a batch must be a tensor, an array, a mapping or a tuple of them, got {type(item).__name__}"
    )


def key_of(item: Any) -> str:
    """The key under which a mapping holds its images."""
    for key in KEYS:
        if key in item:
            return key
    raise TypeError(
        f"a batch that is a mapping must hold images as {', '.join(KEYS)}; got {', '.join(map(str, item))}"
    )


def checked(batch: Tensor) -> Tensor:
    """The batch, if it is (n, c, H, W) of floats."""
    if batch.ndim != 4:
        raise ValueError(f"images must be (n, c, H, W), got {tuple(batch.shape)}")
    if not batch.is_floating_point():
        raise TypeError(f"images must be floats as the model takes them, got {batch.dtype}")
    return batch

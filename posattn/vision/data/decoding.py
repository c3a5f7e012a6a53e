"""Encoded pictures as tensors."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

Images = UInt8[Tensor, "n c H W"]
# raised by damaged pictures and by pictures above Pillow's pixel limit
UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Content(NamedTuple):
    """The content of a set's files."""

    images: Images
    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    skipped: int = 0  # pictures that could not be decoded


class Decoding(NamedTuple):
    """How encoded pictures become a tensor; all become RGB."""

    image_size: int | None = None  # resize the shorter side and cut the centre; None: all must have one size
    skip_corrupt: bool = False  # skip and count pictures that cannot be decoded, instead of stopping


def decode_all(
    encoded: Iterable[tuple[Any, str]], decoding: Decoding, source: str
) -> tuple[Images, list[int]]:
    """Pictures (files or paths, each with a name for messages) as one tensor, and which of them it contains.

    Raises:
        ValueError: one cannot be decoded, sizes differ, or no picture of ``source`` could be decoded.
    """
    images: list[Tensor] = []
    kept = []
    for place, (picture, where) in enumerate(encoded):
        try:
            image = decode(picture, decoding.image_size)
        except UNDECODABLE as error:
            if not decoding.skip_corrupt:
                raise ValueError(f"{where} cannot be decoded: {error}") from error
            continue
        if images and image.shape != images[0].shape:
            sizes = " and ".join("x".join(map(str, shape[1:])) for shape in (images[0].shape, image.shape))
            raise ValueError(
                f"images differ in size ({sizes}, {where}): give an image_size to resize them to"
            )
        images.append(image)
        kept.append(place)
    if not images:
        raise ValueError(f"there is no image that can be decoded in {source}")
    return torch.stack(images), kept


def decode(source: Any, image_size: int | None) -> UInt8[Tensor, "3 H W"]:
    """One picture, converted to RGB."""
    if source is None:
        raise ValueError("it is null")
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    if image_size is not None:
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

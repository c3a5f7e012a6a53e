"""Encoded pictures as tensors."""

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

Picture = Image.Image
Images = UInt8[Tensor, "n c H W"]
Transform = Callable[[Picture], Any]  # to (c, H, W) uint8, as timm's without normalization
# raised by damaged pictures and by pictures above Pillow's pixel limit
UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# formats that Pillow names, but cannot decode by itself
NO_PICTURES = {
    "BUFR",
    "EPS",
    "GRIB",
    "HDF5",
    "MPEG",
    "WMF",
}
SIXTEEN_BITS = 65535


class Content(NamedTuple):
    """The content of a set's files."""

    images: Images
    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    skipped: int = 0  # pictures that could not be decoded
    divided: bool = False  # a part of a set without splits
    arrays: bool = False  # stored as arrays, not as encoded pictures


class Decoding(NamedTuple):
    """How encoded pictures become a tensor; all become RGB."""

    image_size: int | None = None  # resize the shorter side and cut the centre; None: all must have one size
    skip_corrupt: bool = False  # skip and count pictures that cannot be decoded, instead of stopping
    transform: Transform | None = None  # in place of image_size


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
            image = decode(picture, decoding)
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


def decode(source: Any, decoding: Decoding) -> UInt8[Tensor, "c H W"]:
    """One picture, as ``open_picture`` gives it, resized or transformed."""
    picture, size = open_picture(source), decoding.image_size
    if decoding.transform is not None:
        return torch.as_tensor(decoding.transform(picture))
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def open_picture(source: Any) -> Picture:
    """One picture as RGB, upright: EXIF orientation applied, more than 8 bits per channel scaled to 8.

    Args:
        source: a picture, or a path or file of one; None is refused.

    Raises:
        any of ``UNDECODABLE``: it is no picture, damaged, or of floats outside [0, 1].
    """
    if source is None:
        raise ValueError("it is null")
    if isinstance(source, str | Path) and os.path.exists(source) and not os.path.isfile(source):
        raise ValueError("it is not a regular file")  # reading a pipe would wait for ever
    try:
        with source if isinstance(source, Picture) else Image.open(source) as opened:
            return to_eight_bits(ImageOps.exif_transpose(opened)).convert("RGB")
    except RuntimeError as error:  # of Pillow where an AVIF is damaged
        raise OSError(str(error)) from error


def to_eight_bits(picture: Picture) -> Picture:
    """A picture of 16 or 32 bits per pixel, or of floats in [0, 1], scaled to 8 bits; any other as it is."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    whole = 1.0 if picture.mode.startswith("F") else SIXTEEN_BITS
    if not (values.min() >= 0 and values.max() <= whole):  # NaN is neither
        raise ValueError(f"its values are in [{values.min():g}, {values.max():g}], not in [0, {whole:g}]")
    return Image.fromarray(np.round(values * (255 / whole)).astype(np.uint8))


@cache
def extensions() -> frozenset[str]:
    """How the names of files end that Pillow reads here."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES)

"""Real image sets in memory, by name, and the fixed shuffling of their patches.

A set is loaded whole as uint8 tensors; its files are found and read in ``sets`` and ``readers``.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize, to_pil_image

from posattn import checks
from posattn.vision.data.decoding import Content, Decoding, Images, Transform
from posattn.vision.data.readers import read_hub, read_path
from posattn.vision.data.request import Request
from posattn.vision.data.sets import DATA_SETS

__all__ = ["DATA_SETS", "ImageSet", "evenly_spaced", "load_images", "shuffle_patches", "to_float"]

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with their labels.

    Args:
        name: used in results.
        images: (n, c, H, W) uint8.
        labels: (n,) long, 0..classes-1.
        classes: the name of each class.
        skipped: number of pictures that could not be decoded and were skipped.
        divided: a part of a set without splits. ``skipped`` then counts those of the whole set.

    Raises:
        ValueError: the set is empty, shapes or types do not fit, or a label is out of range (it is named).
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    skipped: int = 0
    divided: bool = False

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8 or not len(self.images):
            raise ValueError(
                f"images of {self.name} must be (n, c, H, W) uint8 with n >= 1, "
                f"got {tuple(self.images.shape)} {self.images.dtype}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.long:
            raise ValueError(
                f"labels of {self.name} must be ({len(self.images)},) long, "
                f"got {tuple(self.labels.shape)} {self.labels.dtype}"
            )
        outside = ((self.labels < 0) | (self.labels >= len(self.classes))).nonzero().flatten()
        if len(outside):
            first = int(outside[0])
            raise ValueError(
                f"label {int(self.labels[first])} of image {first} of {self.name} is outside "
                f"0..{len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, H, W) of every image."""
        _, c, H, W = self.images.shape
        return c, H, W

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels, the labels and the names of the classes."""
        total = hashlib.sha256(repr((self.shape, self.classes)).encode())
        for tensor in (self.images, self.labels):
            total.update(tensor.cpu().contiguous().numpy().data)
        return total.hexdigest()

    def to(self, device: torch.device | str) -> "ImageSet":
        """The set on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, index: Shaped[Tensor, "..."]) -> "ImageSet":
        """The images at ``index`` (integers or a mask), with the classes of the whole set."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def batches(
        self, parts: Iterable[Int[Tensor, " _"]], seed: int = 0
    ) -> Iterator[tuple[Images, Int[Tensor, " n"]]]:
        """The images and labels at each of ``parts``. ``seed`` has no effect, as nothing is random."""
        for index in parts:
            yield self.images[index], self.labels[index]

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images {self.shape}, {self.num_classes} classes)"


def load_images(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    *,
    download: bool = False,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    transform: Transform | None = None,
) -> ImageSet:
    """Load a set into memory.

    Args:
        name: one of ``DATA_SETS``; or the path of a folder (of train and test or val, of parquet files, or
            of classes) or of a parquet file; or ``owner/name`` of Hugging Face's hub (with ``datasets``).
        split: ``train`` or ``test``. A set without splits is divided 4 : 1 in a fixed, stratified way.
        data_dir: the folder of a named set's files; default: ./data and the set's usual places.
        download: fetch what is missing into that folder.
        image_size: resize to it, after a centre crop if pictures are not square.
        skip_corrupt: skip pictures that cannot be decoded, and count them in ``skipped``. A set without splits is
            divided without them.
        image_column: of a parquet file; default: img or image.
        label_column: of a parquet file; default: label, fine_label or labels.
        transform: of every picture, to (c, H, W) uint8, in place of ``image_size``.

    Raises:
        ValueError: an unknown name or split, a column of files that are no tables, or files whose content is damaged
            (the file is named).
        FileNotFoundError: files are missing; the error lists the folders searched and how to get them.
    """
    checks.known("split", split, SPLITS)
    if image_size is not None:
        checks.positive_int("image_size", image_size)
    place = None if data_dir is None else Path(data_dir)
    decoding = Decoding(image_size, skip_corrupt, transform)
    request = Request(name, split, place, download, decoding, image_column, label_column)
    content = reader(name)(request)
    images = content.images
    if transform is None:
        images = resized(images, image_size)
    elif content.arrays:
        images = transformed(images, transform)
    return ImageSet(name, images, content.labels, content.classes, content.skipped, content.divided)


def reader(name: str) -> Callable[[Request], Content]:
    """The reader of the named set. Raises ValueError listing the known ones."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    if name and Path(name).exists():  # Path("") is the current folder
        return read_path
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return read_hub
    known = ", ".join(sorted(DATA_SETS))
    raise ValueError(
        f"unknown data set {name!r}; known: {known}, a folder, a parquet file, owner/name of a hub"
    )


def resized(images: Images, image_size: int | None) -> Shaped[Tensor, "n c h w"]:
    """The images resized, unchanged if ``size`` is None or already theirs."""
    if image_size is None or images.shape[-2:] == (image_size, image_size):
        return images
    return resize(images, [image_size, image_size], InterpolationMode.BICUBIC)


def transformed(images: Images, transform: Transform) -> Shaped[Tensor, "n c h w"]:
    """The images, each transformed as a picture."""
    return torch.stack([torch.as_tensor(transform(to_pil_image(image))) for image in images])


def evenly_spaced(total: int, limit: int | None) -> list[int]:
    """The places of at most ``limit`` of ``total`` images, evenly spaced; of all if it is None.

    Sets are often sorted by class: the first images would be of one.

    Raises ValueError if ``limit`` is below 1.
    """
    count = total if limit is None else min(total, checks.positive_int("limit", limit))
    return np.linspace(0, total, count, endpoint=False).astype(int).tolist()


def to_float(images: Images) -> Float[Tensor, "n c H W"]:
    """uint8 images in [-1, 1], the range that timm's ViTs expect."""
    return images.float().div_(127.5).sub_(1)


def shuffle_patches(
    images: Shaped[Tensor, "n c H W"], patch_size: int, permutation: Int[Tensor, " D"]
) -> Shaped[Tensor, "n c H W"]:
    """The same rearrangement of the patches of every image: patch j of the result is patch permutation[j].

    Patch size 1 permutes pixels. ``permutation.argsort()`` undoes it.

    Raises:
        ValueError: the patch size does not divide the image, or ``permutation`` is not one of its D patches.
    """
    n, c, H, W = images.shape
    rows = checks.divides("patch_size", patch_size, "image height", H)
    columns = checks.divides("patch_size", patch_size, "image width", W)
    if not torch.equal(permutation.sort().values.cpu(), torch.arange(rows * columns)):
        raise ValueError(
            f"permutation must hold each of 0..{rows * columns - 1} once, got {permutation.tolist()[:20]}"
        )
    patches = images.reshape(n, c, rows, patch_size, columns, patch_size).transpose(3, 4).flatten(2, 3)
    moved = patches[:, :, permutation.to(images.device)]
    return moved.unflatten(2, (rows, columns)).transpose(3, 4).reshape(n, c, H, W)

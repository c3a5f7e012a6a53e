"""Image sets that do not fit in memory: pictures in class folders, decoded by workers as they are needed."""

import hashlib
import os
import random
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import Int, UInt8
from joblib import Parallel, cpu_count, delayed
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from posattn import checks
from posattn.runs.stopping import OF_TERMINALS, end_with
from posattn.vision.data.augment import derived_seed
from posattn.vision.data.decoding import UNDECODABLE, open_picture
from posattn.vision.data.folders import SPLIT_NAMES, list_folder
from posattn.vision.data.request import Request
from posattn.vision.data.sets import find_split

Batch = tuple[UInt8[Tensor, "n c H W"], Int[Tensor, " n"]]


@dataclass(frozen=True)
class ImageStream:
    """A folder of class folders as a source of batches: all that a training needs of an ImageSet.

    Args:
        name: what results are reported under.
        pictures: the path and label of each picture.
        classes: the name of each class.
        image_size: H = W of the batches.
        crop: random resized crops and mirror images (timm's), else the resized centre.
        workers: processes that decode.
        device: of the batches.
        skipped: number of pictures that could not be decoded and were skipped.
    """

    name: str
    pictures: list[tuple[str, int]]
    classes: tuple[str, ...]
    image_size: int = 224
    crop: bool = False
    workers: int = 1
    device: torch.device | str = "cpu"
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, H, W) of every image."""
        return 3, self.image_size, self.image_size

    @property
    def digest(self) -> str:
        """SHA-256 of the names, sizes and labels of the pictures and the names of the classes."""
        total = hashlib.sha256(repr((self.shape, self.classes)).encode())
        for path, label in self.pictures:
            total.update(repr((os.path.basename(path), os.stat(path).st_size, label)).encode())
        return total.hexdigest()

    def to(self, device: torch.device | str) -> "ImageStream":
        """The stream with its batches on a device."""
        return replace(self, device=device)

    def batches(self, parts: Iterable[Int[Tensor, " _"]], seed: int = 0) -> Iterator[Batch]:
        """The pictures at each of ``parts``; the crop of one depends on ``seed`` and the picture alone."""
        loader = DataLoader(
            StreamedPictures(self, seed),
            batch_sampler=[part.tolist() for part in parts],
            num_workers=self.workers,
            # Python 3.14 would start a server and import torch in each worker of each epoch
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            pin_memory=torch.device(self.device).type == "cuda",
            worker_init_fn=partial(become_decoder, os.getpid()),
            generator=torch.Generator(),  # else starting the workers draws from the global one
        )
        try:
            for images, labels in loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except ValueError as error:  # a worker's error comes with its traceback as the message
            # the frames of the error hold the loader, and torch takes seconds to end workers in a reference cycle
            error.__traceback__ = None
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error

    def __repr__(self) -> str:
        return f"ImageStream({self.name!r}, {len(self)} images {self.shape}, {self.num_classes} classes)"


def become_decoder(parent: int, worker: int) -> None:
    """Have a worker end with its parent, and live on after signals that whole process groups are sent.

    The training answers those; a second SIGTERM ends the worker.
    """
    end_with(parent)
    for number in OF_TERMINALS:
        signal.signal(number, signal.SIG_IGN)

    def give_in_next_time(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, give_in_next_time)


class StreamedPictures(Dataset[tuple[Tensor, int]]):
    """The pictures of a stream one by one, for worker processes."""

    def __init__(self, stream: ImageStream, seed: int) -> None:
        self.pictures, self.seed = stream.pictures, seed
        self.transform = transform_of(stream.shape, stream.crop)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.pictures[index]
        seed = derived_seed(self.seed, index)
        random.seed(seed)  # timm's crops draw from here, torchvision's mirror images from torch
        torch.manual_seed(seed)
        try:
            return self.transform(open_picture(path)), label
        except UNDECODABLE as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error


def transform_of(shape: tuple[int, int, int], crop: bool = False) -> Any:
    """timm's transform of pictures to uint8: random resized crops and mirror images, or the resized centre."""
    options: dict[str, Any] = {"color_jitter": 0.0} if crop else {}
    return create_transform(shape, is_training=crop, interpolation="bicubic", use_prefetcher=True, **options)


def stream_images(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    *,
    image_size: int = 224,
    crop: bool | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
) -> ImageStream:
    """The pictures of ``data_dir``/train or val (or test), a folder a class, read as they are needed.

    With ``skip_corrupt`` every picture is decoded once before anything else, by ``workers`` threads: that costs about
    as long as an epoch of loading, and makes the set, its batches and a resumed run the same whatever fails.

    Args:
        name: what results are reported under, such as ``imagenet``.
        split: ``train`` or ``test``.
        data_dir: the folder that holds the folders of the splits; default: ./data.
        image_size: H = W of the batches.
        crop: random resized crops and mirror images; None: for training only.
        workers: processes that decode; default: one per CPU core.
        skip_corrupt: leave out what cannot be decoded, and count it in ``skipped``.

    Raises:
        ValueError: an argument is out of range, a class folder is without images, or all of them are corrupt.
        FileNotFoundError: there is no folder for the split.
    """
    checks.known("split", split, SPLIT_NAMES)
    checks.positive_int("image_size", image_size)
    workers = checks.positive_int("workers", cpu_count() if workers is None else workers)
    place = None if data_dir is None else Path(data_dir)
    folder = find_split(Request(name, split, place))
    pictures, classes = list_folder(folder)
    kept = whole(pictures, workers) if skip_corrupt else pictures
    if not kept:
        raise ValueError(f"there is no image that can be decoded in {folder}")
    crop = split == "train" if crop is None else crop
    return ImageStream(name, kept, classes, image_size, crop, workers, skipped=len(pictures) - len(kept))


def whole(pictures: list[tuple[str, int]], workers: int) -> list[tuple[str, int]]:
    """Those of the pictures that can be decoded."""
    # threads are enough: Pillow lets go of the interpreter while it decodes
    sound = Parallel(n_jobs=workers, backend="threading")(delayed(decodes)(path) for path, _ in pictures)
    return [picture for picture, good in zip(pictures, sound, strict=True) if good]


def decodes(path: str) -> bool:
    """Whether a picture can be decoded to its end."""
    try:
        open_picture(path)
    except UNDECODABLE:
        return False
    return True

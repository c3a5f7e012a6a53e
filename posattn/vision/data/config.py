"""Settings of image sets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posattn.settings import Count, Pixels

DATA_SETS = (
    *("cifar10", "cifar100", "digits", "fashion-mnist", "imagenet", "imagenette", "svhn", "tiny-imagenet"),
)
STREAMED = ("imagenet",)  # sets too large for memory
SIDE = 224  # of streamed pictures, in pixels, by default
# sets that are part of a dependency, or not published freely
NEVER_FETCHED = (
    "digits",
    "imagenet",
    "imagenette",
    "tiny-imagenet",
)
WITHOUT_TABLES = ("digits", "fashion-mnist", "imagenet")  # never in parquet files


def refuse_data_dir(name: str, data_dir: Path | None) -> None:
    """Raise ValueError if ``data_dir`` is given for a set that is read from elsewhere."""
    if data_dir is not None and (name not in DATA_SETS or name == "digits"):
        where = "comes with scikit-learn" if name == "digits" else "is itself the place that is read"
        raise ValueError(f"data_dir is not for {name}, which {where}; got {str(data_dir)!r}")


@dataclass(frozen=True)
class MemoryDataConfig:
    """An image set held in memory. The names are meant for flags without a prefix: --data, --data-dir, --download."""

    data: str = "digits"
    """A name of `posattn list data`, the path of a folder or a parquet file, or owner/name of Hugging Face's hub"""
    data_dir: Path | None = None
    """Where the files of a named set are; default: ./data and the set's usual places"""
    download: bool = False
    """Download a missing named set into that folder"""
    image_size: Pixels | None = None
    """Resize pictures to this many pixels per side; default: no resizing (imagenet: 224)"""
    skip_corrupt: bool = False
    """Skip and count pictures that cannot be decoded, instead of stopping"""
    image_column: str | None = None
    """Of a parquet file; default: img or image"""
    label_column: str | None = None
    """Of a parquet file; default: label, fine_label or labels"""

    def validate(self) -> None:
        """Raise ValueError for a setting that the set does not read."""
        if not self.data:  # as a path it would be the current folder
            raise ValueError("data must be a set, a path or owner/name, got ''")
        refuse_data_dir(self.data, self.data_dir)
        if self.download and (self.data in NEVER_FETCHED or Path(self.data).exists()):
            raise ValueError(f"download is not for {self.data}, which is never downloaded")
        for name in ("image_column", "label_column"):
            if (value := getattr(self, name)) and self.data in WITHOUT_TABLES:
                raise ValueError(f"{name} is not for {self.data}, which has no columns; got {value!r}")

    def load(self, split: str) -> Any:
        """The split ``train`` or ``test``, an ImageSet. Raises what ``load_images`` raises."""
        return self._read(split, image_size=self.image_size)

    def load_transformed(self, split: str, transform: Callable[[Any], Any]) -> Any:
        """``load``, each picture made (c, H, W) uint8 by ``transform`` in place of ``image_size``."""
        return self._read(split, transform=transform)

    def _read(self, split: str, **options: Any) -> Any:
        from posattn.vision.data.images import load_images  # settings are read without torch

        return load_images(
            self.data,
            split,
            self.data_dir,
            download=self.download,
            skip_corrupt=self.skip_corrupt,
            image_column=self.image_column,
            label_column=self.label_column,
            **options,
        )


@dataclass(frozen=True)
class DataConfig(MemoryDataConfig):
    """An image set, held in memory or decoded as it is needed."""

    stream: bool = False
    """Decode pictures of class folders as they are needed instead of holding all in memory; imagenet always is"""
    workers: Count | None = None
    """Processes that decode a stream; default: one per CPU core"""

    @property
    def streamed(self) -> bool:
        """Whether pictures are decoded as they are needed."""
        return self.stream or self.data in STREAMED

    def validate(self) -> None:
        """Raise ValueError for a setting that the set, or a stream, does not read."""
        super().validate()
        if self.stream and self.data in DATA_SETS and self.data not in STREAMED:
            raise ValueError(f"stream is for folders of classes and imagenet, got {self.data}")
        if self.workers is not None and not self.streamed:
            raise ValueError(f"workers is for a stream (--stream), got {self.workers}")
        if self.streamed:
            for name in ("download", "image_column", "label_column"):
                if value := getattr(self, name):
                    raise ValueError(f"{name} is not for {self.data}, which is streamed, got {value!r}")

    def load(self, split: str) -> Any:
        """The split ``train`` or ``test``: an ImageSet or an ImageStream. Raises what their loaders raise."""
        from posattn.vision.data.streams import stream_images

        if not self.streamed:
            return super().load(split)
        return stream_images(
            self.data,
            split,
            self.data_dir if self.data in STREAMED else Path(self.data),
            image_size=self.image_size or SIDE,
            workers=self.workers,
            skip_corrupt=self.skip_corrupt,
        )

"""Which image set a run uses and how it is read, as settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA_SETS = ("cifar10", "cifar100", "digits", "fashion-mnist", "imagenet", "svhn")
STREAMED = ("imagenet",)  # sets that no memory holds


@dataclass(frozen=True)
class DataConfig:
    """An image set. The names are meant for flags without a prefix: --data, --data-dir, --download."""

    data: str = "digits"
    """A name of `posattn list data`, the path of a folder or a parquet file, or owner/name of Hugging Face's hub"""
    data_dir: Path | None = None
    """Where the files of a named set are; left out, ./data and the set's usual places"""
    download: bool = False
    """Fetch a named set that is not there into that folder"""
    image_size: int | None = None
    """Resize pictures to so many pixels a side; left out, as they are (imagenet: 224)"""
    skip_corrupt: bool = False
    """Leave out, and count, pictures that cannot be decoded, instead of stopping"""
    image_column: str | None = None
    """Of a parquet file; left out, img or image"""
    label_column: str | None = None
    """Of a parquet file; left out, label, fine_label or labels"""
    stream: bool = False
    """Decode pictures of class folders as they are needed instead of holding all in memory; imagenet always is"""
    workers: int | None = None
    """Processes that decode a stream; left out, one a CPU core"""

    def load(self, split: str) -> Any:
        """The split ``train`` or ``test``: an ImageSet or an ImageStream. Raises what their loaders raise."""
        from posattn.vision.data.images import load_images  # settings are read without torch
        from posattn.vision.data.streams import stream_images

        if self.stream or self.data in STREAMED:
            return stream_images(
                self.data,
                split,
                self.data_dir if self.data in DATA_SETS else Path(self.data),
                image_size=self.image_size or 224,
                workers=self.workers,
                skip_corrupt=self.skip_corrupt,
            )
        return load_images(
            self.data,
            split,
            self.data_dir,
            download=self.download,
            image_size=self.image_size,
            skip_corrupt=self.skip_corrupt,
            image_column=self.image_column,
            label_column=self.label_column,
        )

"""Pictures one by one, decoded as they are needed and never all in memory where they come as files."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from posattn import checks
from posattn.vision.data.decoding import UNDECODABLE
from posattn.vision.data.images import load_images
from posattn.vision.data.tables import IMAGE_COLUMNS, column

Picture = Image.Image
PART = 64  # rows of a parquet file read at once


class Pictures:
    """The pictures of a folder and its subfolders, of a parquet file, or of the test split of a known set.

    Args:
        name: a path, or one of ``posattn.vision.data.images.DATA_SETS``.
        data_dir: the folder of a named set's files.
        limit: take so many, evenly spaced; None for all.

    Raises:
        ValueError, FileNotFoundError: there are none, or what ``load_images`` raises.
    """

    def __init__(self, name: str, data_dir: Path | None = None, limit: int | None = None) -> None:
        self._source = source_of(name, data_dir)
        total = len(self._source)
        if not total:
            raise ValueError(f"{name} holds no pictures")
        count = total if limit is None else min(total, checks.positive_int("limit", limit))
        self._chosen = np.linspace(0, total, count, endpoint=False).astype(int)

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Picture]:
        for source, where in self._source.at(self._chosen.tolist()):
            try:
                yield (source if isinstance(source, Picture) else Image.open(source)).convert("RGB")
            except UNDECODABLE as error:
                raise ValueError(f"{where} cannot be decoded: {error}") from error


def source_of(name: str, data_dir: Path | None) -> "Files | Rows | Arrays":
    """What reads the pictures of that name."""
    path = Path(name)
    if path.is_file():
        return Rows(path)
    if path.is_dir() and not any(path.rglob("*.parquet")):
        return Files(sorted(file for file in path.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS))
    return Arrays(load_images(name, "test", data_dir).images.permute(0, 2, 3, 1).numpy())


class Files:
    """Pictures in files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def at(self, chosen: Iterable[int]) -> Iterator[tuple[Any, str]]:
        return ((self.files[index], str(self.files[index])) for index in chosen)


class Rows:
    """Encoded pictures in the rows of a parquet file. ValueError where it is no such file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a whole parquet file: {error}") from error
        self.column = column(self.file.schema_arrow.empty_table(), str(path), "image", None, IMAGE_COLUMNS)

    def __len__(self) -> int:
        return self.file.metadata.num_rows

    def at(self, chosen: Iterable[int]) -> Iterator[tuple[Any, str]]:
        wanted, first = set(chosen), 0
        for part in self.file.iter_batches(PART, columns=[self.column]):
            for row in range(first, first + len(part)):
                if row in wanted:
                    cell = part[0][row - first].as_py()
                    content = cell["bytes"] if isinstance(cell, dict) else cell
                    yield io.BytesIO(content), f"image {row} of {self.path}"
            first += len(part)


class Arrays:
    """Pictures in memory, (n, H, W, c) uint8."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def at(self, chosen: Iterable[int]) -> Iterator[tuple[Any, str]]:
        for index in chosen:
            image = self.images[index]
            yield Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), f"image {index}"

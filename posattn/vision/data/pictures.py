"""Pictures one by one, decoded as they are needed and never all in memory where they come as files."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from posattn import checks
from posattn.vision.data.decoding import UNDECODABLE
from posattn.vision.data.images import load_images
from posattn.vision.data.tables import IMAGE_COLUMNS, column

Picture = Image.Image
PART = 64  # rows of a parquet file read at once
LISTS = {".txt", ".lst"}
NO_PICTURES = {
    "BUFR",
    "EPS",
    "GRIB",
    "HDF5",
    "MPEG",
    "WMF",
}  # Pillow knows their names, but has no decoder by itself
SIXTEEN_BITS = 65535


def open_picture(source: Any) -> Picture:
    """One picture as RGB, upright: EXIF orientation applied, more than 8 bits per channel scaled to 8.

    Args:
        source: a picture, or a path or file of one.

    Raises:
        any of ``UNDECODABLE``: it is no picture, damaged, or of floats outside [0, 1].
    """
    with source if isinstance(source, Picture) else Image.open(source) as opened:
        return to_eight_bits(ImageOps.exif_transpose(opened)).convert("RGB")


def to_eight_bits(picture: Picture) -> Picture:
    """A picture of 16 or 32 bits per pixel, or of floats in [0, 1], scaled to 8 bits; any other as it is."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    whole = 1.0 if picture.mode.startswith("F") else SIXTEEN_BITS
    if values.min() < 0 or values.max() > whole:
        raise ValueError(f"its values are in [{values.min():g}, {values.max():g}], not in [0, {whole:g}]")
    return Image.fromarray(np.round(values * (255 / whole)).astype(np.uint8))


class Pictures:
    """The pictures of a folder and all below it, of one file, of a list of files, of a parquet file, or of a known set.

    Hidden files are ignored. ``notes`` says what else was, ``skipped`` how many pictures of the last pass could not
    be decoded.

    Args:
        name: a path (a .txt file lists one picture per line), or one of ``posattn.vision.data.images.DATA_SETS``,
            whose test split is read.
        data_dir: the folder of a named set's files.
        limit: take so many, evenly spaced; None for all.
        skip_corrupt: leave out what cannot be decoded, instead of stopping.

    Raises:
        ValueError, FileNotFoundError: there are none, a URL is given, or what ``load_images`` raises.
    """

    def __init__(
        self, name: str, data_dir: Path | None = None, limit: int | None = None, skip_corrupt: bool = False
    ) -> None:
        self._source, self.notes = source_of(name, data_dir)
        total = len(self._source)
        if not total:
            raise ValueError(f"{name} holds no pictures{''.join(f' ({note})' for note in self.notes)}")
        count = total if limit is None else min(total, checks.positive_int("limit", limit))
        self._chosen = np.linspace(0, total, count, endpoint=False).astype(int)
        self.skip_corrupt, self.skipped = skip_corrupt, 0

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Picture]:
        self.skipped = 0
        for source, where in self._source.at(self._chosen.tolist()):
            try:
                picture = open_picture(source)
            except UNDECODABLE as error:
                if not self.skip_corrupt:
                    raise ValueError(f"{where} cannot be decoded: {error}") from error
                self.skipped += 1
                continue
            yield picture


@cache
def extensions() -> frozenset[str]:
    """How the names of files end that Pillow reads here."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES)


def visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and all below it in order, symbolic links followed once, without hidden ones."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def ignored(files: Iterable[Path]) -> list[str]:
    """A note on files that are not pictures."""
    counts = Counter(file.suffix.lower() or "no extension" for file in files)
    if not counts:
        return []
    return [
        f"ignored, no pictures: {', '.join(f'{count} of {kind}' for kind, count in sorted(counts.items()))}"
    ]


def listed(path: Path) -> list[Path]:
    """The pictures listed in a text file, one per line, relative to its folder.

    Raises:
        ValueError, FileNotFoundError: a line is a URL, or a file that does not exist.
    """
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if "://" in line:
            raise ValueError(
                f"{path}: line {number}, {line}, is a URL: download the pictures, and list their paths"
            )
        if not (path.parent / line).is_file():
            raise FileNotFoundError(f"{path}: line {number}, {line}, is no file")
    return [path.parent / line for line in lines]


class Files:
    """Pictures in files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def at(self, chosen: Iterable[int]) -> Iterator[tuple[Any, str]]:
        return ((self.files[index], str(self.files[index])) for index in chosen)


class Rows:
    """Encoded pictures in the rows of a parquet file. Raises ValueError if it is no such file."""

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


def source_of(name: str, data_dir: Path | None) -> tuple[Files | Rows | Arrays, list[str]]:
    """The reader of the named pictures, and a note on the files it ignores."""
    if "://" in name:
        raise ValueError(f"{name} is a URL: download the pictures, and name their folder")
    path = Path(name)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return Rows(path), []
    if path.is_file():
        return Files(listed(path) if path.suffix.lower() in LISTS else [path]), []
    if path.is_dir():
        files = list(visible_files(path))
        if not any(file.suffix.lower() == ".parquet" for file in files):
            pictures = [file for file in files if file.suffix.lower() in extensions()]
            return Files(pictures), ignored(file for file in files if file.suffix.lower() not in extensions())
    return Arrays(load_images(name, "test", data_dir).images.permute(0, 2, 3, 1).numpy()), []

"""Pictures one by one, decoded as they are needed and never all in memory where they come as files."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from posattn.vision.data.decoding import UNDECODABLE, Picture, extensions, open_picture
from posattn.vision.data.folders import list_folder, split_of, walk
from posattn.vision.data.images import evenly_spaced, load_images
from posattn.vision.data.request import Request
from posattn.vision.data.sets import find_split, tables_of_part
from posattn.vision.data.tables import IMAGE_COLUMNS, Part, cell_source, column, encoded_cells

PART = 64  # rows of a parquet file read at once
LISTS = {".txt", ".lst"}


class Pictures:
    """The pictures of a folder and all below it, of one file, of a list of files, of a parquet file, or of a known set.

    Hidden files are ignored. ``notes`` says what else was, ``skipped`` how many pictures of the last pass could not
    be decoded.

    Args:
        name: a path (a .txt file lists one picture per line; of a folder without pictures the parquet files are read,
            those of a test split if there are any), or one of ``posattn.vision.data.images.DATA_SETS``, whose test
            split is read.
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
        self._chosen = np.asarray(evenly_spaced(total, limit))
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


def visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and all below it in order, symbolic links followed once, without hidden ones.

    Raises ValueError for a link to a folder around the whole, as in /proc/self: it would read everything.
    """
    outside = {str(each) for each in Path(os.path.realpath(folder)).parents}
    for place, folders, files in walk(folder):
        for link in (os.path.join(place, name) for name in folders):
            if (target := os.path.realpath(link)) in outside:
                raise ValueError(f"{link} is a link to {target}, which {folder} is in")
        yield from (Path(place, name) for name in files)


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
        ValueError, FileNotFoundError: it is not text in UTF-8, or a line is a URL or a file that does not exist.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no list of paths, one per line in UTF-8: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
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
        empty = Part(self.file.schema_arrow.empty_table(), str(path))
        self.column = column(empty.table, empty.where, "image", None, IMAGE_COLUMNS)
        list(encoded_cells(empty, self.column))  # raises if the column holds no bytes

    def __len__(self) -> int:
        return self.file.metadata.num_rows

    def at(self, chosen: Iterable[int]) -> Iterator[tuple[Any, str]]:
        wanted, first = set(chosen), 0
        for part in self.file.iter_batches(PART, columns=[self.column]):
            for row in range(first, first + len(part)):
                if row in wanted:
                    source = cell_source(part[0][row - first].as_py(), self.path.parent)
                    yield source, f"image {row} of {self.path}"
            first += len(part)


class Tables:
    """The rows of several parquet files, one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.parts = [Rows(path) for path in paths]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def at(self, chosen: Iterable[int]) -> Iterator[tuple[Any, str]]:
        left, first = np.asarray(list(chosen)), 0
        for part in self.parts:
            inside = left[(left >= first) & (left < first + len(part))] - first
            yield from part.at(inside.tolist())
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


def source_of(name: str, data_dir: Path | None) -> tuple[Files | Rows | Tables | Arrays, list[str]]:
    """The reader of the named pictures, and a note on the files it ignores."""
    if "://" in name:
        raise ValueError(f"{name} is a URL: download the pictures, and name their folder")
    path = Path(name)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return Rows(path), []
    if path.is_file():
        return Files(listed(path) if path.suffix.lower() in LISTS else [path]), []
    if name and path.is_dir():  # Path("") is the current folder
        return in_folder(list(visible_files(path)))
    return in_known_set(name, data_dir), []


def in_known_set(name: str, data_dir: Path | None) -> Files | Tables | Arrays:
    """The reader of a set's test pictures at the size that they are stored in, where ``load_images`` resizes some."""
    request = Request(name, "test", data_dir)
    if name == "imagenet":
        return Files([Path(path) for path, _ in list_folder(find_split(request))[0]])
    if name in ("imagenette", "tiny-imagenet"):
        return Tables(tables_of_part(request))
    return Arrays(load_images(name, "test", data_dir).images.permute(0, 2, 3, 1).numpy())


def in_folder(files: Sequence[Path]) -> tuple[Files | Tables, list[str]]:
    """The pictures of a folder, else the rows of its parquet files, those of the test split if names tell it."""
    pictures = [file for file in files if file.suffix.lower() in extensions()]
    every = [file for file in files if file.suffix.lower() == ".parquet"]
    tables = [file for file in every if split_of(file.stem) == "test"] or every
    if pictures or not tables:
        return Files(pictures), ignored(file for file in files if file not in set(pictures))
    left = [file.name for file in every if file not in tables]
    notes = [f"the tables of the test split alone, without {', '.join(left[:3])}"] if left else []
    return Tables(tables), notes + ignored(file for file in files if file not in every)

"""Image sets in tables: parquet files, and folders that Hugging Face's ``save_to_disk`` wrote."""

import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from torch import Tensor

from posattn.runs.files import read_json
from posattn.vision.data.decoding import Content, Decoding, decode_all
from posattn.vision.data.folders import check_same

IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("label", "fine_label", "labels")
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
MAX_CLASSES = 100_000


class Part(NamedTuple):
    """A table of a split, such as a shard, with its name for messages and the folder that its paths are below."""

    table: pa.Table
    where: str
    folder: Path = Path()


class Columns(NamedTuple):
    """The columns to read; None for the usual ones."""

    image: str | None = None
    label: str | None = None


def parquet_parts(paths: Sequence[Path]) -> list[Part]:
    """The tables of parquet files. Raises ValueError naming one that is not whole."""
    parts = []
    for path in paths:
        try:
            parts.append(Part(pq.ParquetFile(path).read(), str(path), path.parent))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a whole parquet file: {error}") from error
    return parts


def saved_parts(folder: Path) -> list[Part]:
    """The tables of a folder of ``Dataset.save_to_disk``. Raises ValueError naming a file that is not whole."""
    state = read_json(folder / "state.json")
    try:
        names = [each["filename"] for each in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'state.json'} does not list the files of a data set") from error
    if not names:
        raise ValueError(f"{folder} holds an empty data set")
    parts = []
    for path in (folder / Path(name).name for name in names):
        try:
            with pa.memory_map(str(path)) as source:
                parts.append(Part(pa.ipc.open_stream(source).read_all(), str(path), folder))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a whole Arrow file: {error}") from error
    return parts


def read_parts(
    parts: Sequence[Part],
    decoding: Decoding,
    columns: Columns,
    classes: tuple[str, ...] = (),
    others: Sequence[Part] = (),
) -> Content:
    """The encoded images and the labels of the tables of one split.

    Args:
        parts: in the schema of Hugging Face's datasets, or with columns of encoded pictures and of labels.
        decoding: how pictures are decoded.
        columns: which columns to read.
        classes: names of labels from 0 on, of a set whose tables have none.
        others: the tables of the other split. Labels must be the same classes there; without names they are matched by
            value.

    Raises:
        ValueError: a column holds something else, a label is missing, tables have labels of different types, or the
            splits have other classes; the file, the row and the column are named.
    """
    for part in parts:
        column(part.table, part.where, "image", columns.image, IMAGE_COLUMNS)
    ours, theirs = shared_names(parts, columns), shared_names(others, columns)
    if ours and theirs:
        check_same(parts[0].where, ours, others[0].where, theirs)
    names = ours or theirs or classes
    images, kept = decode_all(
        (cell for part in parts for cell in encoded_cells(part, columns.image)), decoding, parts[0].where
    )
    values = split_labels(parts, columns.label, bool(names))
    if names:
        labels = torch.tensor(values, dtype=torch.long)
    else:
        labels, names = numbered(values, parts[0].where)
        if others:
            _, theirs = numbered(split_labels(others, columns.label, False), others[0].where)
            check_same(parts[0].where, names, others[0].where, theirs)
    return Content(images, labels[kept], names, len(values) - len(kept))


def numbered(values: Sequence[Any], where: str) -> tuple[Int[Tensor, " n"], tuple[str, ...]]:
    """Labels from 0 on and the names of the classes, of labels of any values, in the order of the values."""
    classes = sorted(set(values))
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"{where}: {len(classes):,} different labels, more than {MAX_CLASSES:,} classes")
    number = {value: index for index, value in enumerate(classes)}
    return torch.tensor([number[value] for value in values]), tuple(map(str, classes))


def shared_names(parts: Sequence[Part], columns: Columns) -> tuple[str, ...]:
    """The class names in the schema of the tables, none where they have none. Raises ValueError if tables differ."""
    found = {part.where: schema_names(part, columns) for part in parts}
    first = next(iter(found), "")
    for where, names in found.items():
        if names != found[first]:
            raise ValueError(f"{first} and {where} name their classes differently")
    return found.get(first, ())


def schema_names(part: Part, columns: Columns) -> tuple[str, ...]:
    """The class names of a table in the schema of Hugging Face's datasets."""
    label = column(part.table, part.where, "label", columns.label, LABEL_COLUMNS)
    try:
        described = json.loads((part.table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = described.get("info", {}).get("features", {}).get(label, {}).get("names", [])
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{part.where}: the metadata of Hugging Face's datasets is damaged: {error}"
        ) from error
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or len(set(names)) < len(names):
        raise ValueError(f"{part.where}: the names of the classes must be distinct texts, got {names!r:.200}")
    return tuple(names)


def encoded_cells(part: Part, asked: str | None) -> Iterator[tuple[Any, str]]:
    """The encoded pictures of a table, each with its place for messages."""
    name = column(part.table, part.where, "image", asked, IMAGE_COLUMNS)
    kind = stored_type(part.table.schema.field(name).type)
    if pa.types.is_struct(kind):
        parts = {field.name: stored_type(field.type) for field in kind}
        held = parts.get("bytes", pa.null())
        known = holds_bytes(held) or (pa.types.is_null(held) and "path" in parts)
    else:
        known = holds_bytes(kind)
    if not known:
        raise ValueError(f"{part.where}: column {name} holds {kind}, not encoded pictures")
    for row, cell in enumerate(part.table[name].to_pylist()):
        yield cell_source(cell, part.folder), f"image {row} of {part.where}, column {name},"


def cell_source(cell: Any, folder: Path) -> Any:
    """The file that Pillow opens for a cell, None for a null; a cell without bytes may give a path instead."""
    if isinstance(cell, dict):
        if cell.get("bytes") is None:
            return folder / cell["path"] if cell.get("path") else None
        cell = cell["bytes"]
    return None if cell is None else io.BytesIO(cell)


def stored_type(kind: Any) -> Any:
    """The type of the values of a dictionary or an extension type."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def holds_bytes(kind: Any) -> bool:
    """Whether an Arrow type is one of those for bytes."""
    return any(
        is_one(kind)
        for is_one in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def split_labels(parts: Sequence[Part], asked: str | None, named: bool) -> list[Any]:
    """The labels of all tables of a split. Raises ValueError naming two tables with labels of different types."""
    found = {part.where: label_values(part, asked, named) for part in parts}
    kinds = {where: type(values[0]).__name__ for where, values in found.items() if values}
    first = next(iter(kinds), "")
    for where, kind in kinds.items():
        if kind != kinds[first]:
            raise ValueError(f"the labels of {first} are {kinds[first]}, those of {where} are {kind}")
    return list(chain.from_iterable(found.values()))


def label_values(part: Part, asked: str | None, named: bool) -> list[Any]:
    """The labels of a table: integers, and text too where the classes are not ``named`` in the schema."""
    name = column(part.table, part.where, "label", asked, LABEL_COLUMNS)
    kind = stored_type(part.table.schema.field(name).type)
    text = pa.types.is_boolean(kind) or kind in TEXTS
    if not (pa.types.is_integer(kind) or (text and not named)):
        raise ValueError(f"{part.where}: column {name} holds {kind}, not labels")
    values = part.table[name].to_pylist()
    for row, value in enumerate(values):
        if value is None or (isinstance(value, int) and value < 0):
            state = "has no label" if value is None else f"has the label {value}, which means no label"
            raise ValueError(f"{part.where}: row {row} {state} in column {name}")
    return values


def column(table: pa.Table, where: str, kind: str, name: str | None, usual: Sequence[str]) -> str:
    """The requested column, or the first of the usual ones.

    Raises ValueError listing the columns if there is none, or if several have its name.
    """
    for candidate in usual if name is None else (name,):
        if (count := table.column_names.count(candidate)) == 1:
            return candidate
        if count:
            raise ValueError(
                f"{where} has {count} columns of the name {candidate}: {', '.join(table.column_names)}"
            )
    wanted = " or ".join(usual) if name is None else name
    raise ValueError(
        f"{where} has no {kind} column {wanted}, only {', '.join(table.column_names)}: "
        f"name it with {kind}_column, or rename it where a command has no such setting"
    )

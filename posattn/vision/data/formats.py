"""The file formats that image sets come in: IDX, CIFAR pickles, MATLAB, parquet, folders of pictures."""

import gzip
import io
import json
import math
import pickle
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

Images = UInt8[Tensor, "n c H W"]
IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("label", "fine_label", "labels")
# All that a pickled batch of CIFAR needs: a pickle that asks for anything else is refused, not run.
PICKLED = {
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0]
        for core in ("core", "_core")
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what damaged pictures raise


class Content(NamedTuple):
    """What a set's files hold."""

    images: Images
    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    skipped: int = 0  # pictures that could not be decoded


class Decoding(NamedTuple):
    """How encoded pictures become a tensor; all become RGB."""

    image_size: int | None = None  # resize the shorter side and cut the centre; None: all must have one size
    skip_corrupt: bool = False  # leave out and count what cannot be decoded, instead of stopping


def read_idx(path: Path, dims: int) -> UInt8[Tensor, "..."]:
    """A file of unsigned bytes in the IDX format (gzipped where its name ends in .gz).

    Raises:
        ValueError: not IDX, of another number of dimensions, or cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) < 4 + 4 * dims:
        raise ValueError(f"{path} is not an IDX file of {dims}-dimensional unsigned bytes")
    shape = tuple(np.frombuffer(raw, ">u4", dims, offset=4).tolist())
    if len(raw) != 4 + 4 * dims + math.prod(shape):
        raise ValueError(f"{path} should hold {shape} bytes, but holds {len(raw) - 4 - 4 * dims}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=4 + 4 * dims).reshape(shape)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and NumPy arrays and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a file of images")
        return PICKLED[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """A dictionary as in the Python version of CIFAR. ValueError where it is damaged or of another kind."""
    try:
        with path.open("rb") as file:
            return dict(ArrayUnpickler(file, encoding="latin1").load())
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path} is not a whole pickle of images: {error}") from error


def read_cifar(batches: Sequence[Path], meta: Path, label_key: str, names_key: str) -> Content:
    """Batches of CIFAR-10 (labels, label_names) or CIFAR-100 (fine_labels, fine_label_names)."""
    images, labels = [], []
    for path in batches:
        batch = read_pickle(path)
        try:
            images.append(torch.from_numpy(np.array(batch["data"], np.uint8)).view(-1, 3, 32, 32))
            labels.append(torch.tensor(batch[label_key]))
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{path} is not a batch of CIFAR images: {error}") from error
    names = read_pickle(meta).get(names_key)
    if names is None:
        raise ValueError(f"{meta} does not hold {names_key}")
    return Content(torch.cat(images), torch.cat(labels), tuple(names))


def read_mat(path: Path) -> Content:
    """SVHN's cropped digits: X (32, 32, 3, n) and y (n, 1), where 10 stands for the digit 0."""
    try:
        held = loadmat(path)
        images, labels = (
            torch.from_numpy(held["X"]).permute(3, 2, 0, 1),
            torch.from_numpy(held["y"]).flatten(),
        )
    except (MatReadError, KeyError, ValueError, TypeError, OSError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole MATLAB file of images X and labels y: {error}") from error
    return Content(images.contiguous(), labels.long() % 10, tuple("0123456789"))


def read_parquet(
    paths: Sequence[Path],
    decoding: Decoding,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Content:
    """The encoded images and integer labels of parquet files (the shards of one split)."""
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a whole parquet file: {error}") from error
    return read_table(pa.concat_tables(tables), str(paths[0]), decoding, image_column, label_column)


def read_table(
    table: pa.Table, where: str, decoding: Decoding, image_column: str | None, label_column: str | None
) -> Content:
    """An Arrow table in the schema of Hugging Face's datasets, with the class names if it holds them."""
    image_column = column(table, where, "image", image_column, IMAGE_COLUMNS)
    label_column = column(table, where, "label", label_column, LABEL_COLUMNS)
    check_columns(table, where, image_column, label_column)
    cells = (cell["bytes"] if isinstance(cell, dict) else cell for cell in table[image_column].to_pylist())
    encoded = ((io.BytesIO(cell), f"image {row} of {where}") for row, cell in enumerate(cells))
    images, kept = decode_all(encoded, decoding)
    labels = torch.tensor(table[label_column].to_numpy(), dtype=torch.long)[kept]
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    names = tuple(features.get(label_column, {}).get("names", ()))
    return Content(images, labels, names, len(table) - len(kept))


def check_columns(table: pa.Table, where: str, image_column: str, label_column: str) -> None:
    """ValueError where the columns do not hold encoded pictures and integers, or a label is missing."""
    kind, labels = table.schema.field(image_column).type, table.schema.field(label_column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(f"{where}: column {image_column} holds {kind}, not encoded pictures")
    if not pa.types.is_integer(labels):
        raise ValueError(f"{where}: column {label_column} holds {labels}, not integers")
    if missing := table[label_column].null_count:
        raise ValueError(f"{where}: column {label_column} lacks the labels of {missing} images")


def column(table: pa.Table, where: str, kind: str, name: str | None, usual: Sequence[str]) -> str:
    """The column asked for, or the first of the usual ones. ValueError lists what there is instead."""
    for candidate in usual if name is None else (name,):
        if candidate in table.column_names:
            return candidate
    wanted = " or ".join(usual) if name is None else name
    raise ValueError(
        f"{where} has no {kind} column {wanted}, only {', '.join(table.column_names)}: "
        f"name it with {kind}_column"
    )


def read_folder(folder: Path, decoding: Decoding) -> Content:
    """Pictures in a folder for each class, as torchvision's ImageFolder has them.

    Raises:
        ValueError: there are no class folders, or one is without images.
    """
    paths, classes = list_folder(folder)
    images, kept = decode_all(((path, str(path)) for path, _ in paths), decoding)
    labels = torch.tensor([label for _, label in paths])[kept]
    return Content(images, labels, classes, len(paths) - len(kept))


def list_folder(folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """The pictures of a folder with their labels, and the names of its classes."""
    try:
        classes, number = find_classes(str(folder))
        return make_dataset(str(folder), number, extensions=IMG_EXTENSIONS), tuple(classes)
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: {error}") from error


def decode_all(encoded: Iterable[tuple[Any, str]], decoding: Decoding) -> tuple[Images, list[int]]:
    """Pictures (files or paths, each with a name for messages) as one tensor, and which of them are in it."""
    images: list[Tensor] = []
    kept = []
    for place, (source, where) in enumerate(encoded):
        try:
            image = decode(source, decoding.image_size)
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
        raise ValueError("there is no image that can be decoded")
    return torch.stack(images), kept


def decode(source: Any, image_size: int | None) -> UInt8[Tensor, "3 H W"]:
    """One picture as RGB, whatever its own mode."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    if image_size is not None:
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

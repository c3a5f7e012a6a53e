"""Reading image sets in the layouts people have them in."""

import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

Images = UInt8[Tensor, "n c H W"]
Content = tuple[Images, Int[Tensor, " n"], tuple[str, ...]]

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def digits(split: str, data_dir: Path | None) -> Content:
    """scikit-learn's 1,797 handwritten digits (0..16 stretched to 0..255): 1,437 to train, 360 to test."""
    bunch = load_digits()
    index = np.arange(len(bunch.target))
    parts = train_test_split(index, test_size=0.2, random_state=0, stratify=bunch.target)
    index = np.sort(parts[split == "test"])
    images = torch.from_numpy(np.rint(bunch.images[index] * (255 / 16)).astype(np.uint8))
    return images[:, None], torch.from_numpy(bunch.target[index]).long(), tuple("0123456789")


def fashion_mnist(split: str, data_dir: Path | None) -> Content:
    """70,000 pictures of clothing, 28x28: IDX files as published, as torchvision keeps them or Debian's."""
    folders = [DEBIAN_FASHION, Path("data")] if data_dir is None else [data_dir]
    folders = [folder / below for folder in folders for below in ("", "FashionMNIST/raw", "fashion-mnist")]
    prefix = "train" if split == "train" else "t10k"
    how = "install Debian's dataset-fashion-mnist, or name the folder of its four IDX files"
    paths = [
        find("fashion-mnist", folders, [stem, f"{stem}.gz"], how)
        for stem in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    ]
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    return images[:, None], labels.long(), FASHION_CLASSES


def cifar10(split: str, data_dir: Path | None) -> Content:
    """60,000 photographs of ten classes, 32x32: parquet files in the schema of Hugging Face's datasets."""
    folders = [Path("data/cifar10"), Path("data")] if data_dir is None else [data_dir, data_dir / "cifar10"]
    how = "name the folder that holds train.parquet and test.parquet"
    return read_parquet(find("cifar10", folders, [f"{split}.parquet"], how), CIFAR10_CLASSES)


DATA_SETS: dict[str, Callable[[str, Path | None], Content]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}


def find(name: str, folders: Sequence[Path], files: Sequence[str], how: str) -> Path:
    """The first of ``files`` in the first of ``folders``, else FileNotFoundError saying where it looked."""
    for folder in folders:
        for file in files:
            if (folder / file).is_file():
                return folder / file
    looked = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"{name} not found: no {' or '.join(files)} in {looked}; {how}")


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


def read_parquet(path: Path, classes: tuple[str, ...]) -> Content:
    """Encoded images (``img`` or ``image``) and integer labels (``label``) of a parquet file.

    Class names are taken from the schema where Hugging Face's datasets left them there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a whole parquet file: {error}") from error
    names = table.column_names
    image_column = next((name for name in ("img", "image") if name in names), None)
    if image_column is None or "label" not in names:
        raise ValueError(f"{path} has columns {', '.join(names)}; expected img or image, and label")
    encoded = (row["bytes"] for row in table[image_column].to_pylist())
    images = torch.stack([decode(data, f"image {row} of {path}") for row, data in enumerate(encoded)])
    labels = torch.tensor(table["label"].to_numpy(), dtype=torch.long)
    return images, labels, class_names(table.schema.metadata, "label") or classes


def decode(data: bytes, where: str) -> UInt8[Tensor, "3 H W"]:
    """An encoded picture as RGB. ValueError names ``where`` it came from if it cannot be decoded."""
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{where} cannot be decoded: {error}") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def class_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The names that Hugging Face's datasets keep in a schema for a column of class labels, () without."""
    described: dict[str, Any] = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    return tuple(features.get(column, {}).get("names", ()))

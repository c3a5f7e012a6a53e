"""The file formats that published image sets come in: IDX, CIFAR pickles, MATLAB."""

import gzip
import math
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor

from posattn.vision.data.decoding import Content

# All that a pickled batch of CIFAR needs: a pickle with anything else is refused, not run.
PICKLED = {
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0]
        for core in ("core", "_core")
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}
MAX_BYTES = 2**34  # of an IDX file, whose header gives its size


def read_idx(path: Path, dims: int) -> UInt8[Tensor, "..."]:
    """A file of unsigned bytes in the IDX format (gzipped if its name ends in .gz).

    Raises:
        ValueError: not IDX, of another number of dimensions, or cut short.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dims)
            if head[:4] != bytes((0, 0, 8, dims)) or len(head) < 4 + 4 * dims:
                raise ValueError(f"{path} is not an IDX file of {dims}-dimensional unsigned bytes")
            shape = tuple(np.frombuffer(head, ">u4", dims, offset=4).tolist())
            if not 0 < math.prod(shape) <= MAX_BYTES:
                raise ValueError(f"{path} should hold {shape} bytes: not from 1 to {MAX_BYTES:,}")
            raw = file.read(math.prod(shape) + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    if len(raw) != math.prod(shape):
        held = "more" if len(raw) > math.prod(shape) else len(raw)
        raise ValueError(f"{path} should hold {shape} bytes, but holds {held}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(shape)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and NumPy arrays and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a file of images")
        return PICKLED[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """A dictionary as in the Python version of CIFAR. Raises ValueError if it is damaged or of another kind."""
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
    return Content(torch.cat(images), torch.cat(labels), tuple(names), arrays=True)


def read_mat(path: Path) -> Content:
    """SVHN's cropped digits: X (32, 32, 3, n) and y (n, 1), where 10 means the digit 0."""
    try:
        held = loadmat(path)
        images, labels = (
            torch.from_numpy(held["X"]).permute(3, 2, 0, 1),
            torch.from_numpy(held["y"]).flatten(),
        )
    except (MatReadError, KeyError, ValueError, TypeError, OSError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole MATLAB file of images X and labels y: {error}") from error
    for row, label in enumerate(labels.tolist()):
        if label not in range(1, 11):
            raise ValueError(f"{path}: label {label} of image {row} is not an integer from 1 to 10")
    return Content(images.contiguous(), labels.long() % 10, tuple("0123456789"), arrays=True)

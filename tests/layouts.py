"""Image sets of noise, written in the layouts that people have."""

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from scipy.io import savemat
from torch import Generator, Tensor


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=Generator().manual_seed(0))


def encoded(pixels: Tensor, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert(mode).save(stream, "png")
    return stream.getvalue()


def write_cifar(
    folder: Path, sizes: dict[str, int], label_key: str, meta: str, names: dict[str, object]
) -> Tensor:
    """Pickles of protocol 2 with (n, 3072) bytes, as published. Returns all images."""
    folder.mkdir(parents=True)
    images = noise(sum(sizes.values()), 3, 32, 32)
    for (name, size), batch in zip(sizes.items(), images.split(list(sizes.values())), strict=True):
        rows = batch.reshape(size, 3072).numpy()
        held = {"data": rows, label_key: [i % 10 for i in range(size)], "filenames": ["a.png"] * size}
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))
    (folder / meta).write_bytes(pickle.dumps(names, protocol=2))
    return images


def write_folder(folder: Path, pictures: dict[str, bytes]) -> None:
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def write_unlike_splits(folder: Path) -> None:
    """A training split in class folders, and a test split in a table that has numbers for the classes."""
    picture = encoded(noise(3, 8, 8))
    write_folder(folder / "train", {f"{name}/0.png": picture for name in ("cat", "dog")})
    pq.write_table(pa.table({"image": [picture] * 2, "label": [1, 0]}), folder / "test.parquet")


def write_svhn(path: Path, count: int) -> tuple[Tensor, list[int]]:
    """A MATLAB file as published: (32, 32, 3, n), classes 1..10 where 10 is the digit 0. Returns images and digits."""
    images = noise(count, 3, 32, 32)
    classes = [1 + 3 * i % 10 for i in range(count)]
    held = {"X": images.permute(2, 3, 1, 0).numpy(), "y": np.array(classes, np.uint8)[:, None]}
    savemat(path, held, do_compression=True)
    return images, [label % 10 for label in classes]

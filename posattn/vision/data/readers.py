"""Image sets by name: where their files lie in the layouts people have, and how to get them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets as published

from posattn.vision.data.formats import (
    Content,
    Decoding,
    read_cifar,
    read_folder,
    read_idx,
    read_mat,
    read_parquet,
    read_table,
)

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
HOME = Path("data")  # where files are looked for, and downloaded to, unless a folder is named
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
DECODING = Decoding()
SPLIT_NAMES = {"train": ("train",), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class Request:
    """Which part of a set, from where, and how to read it."""

    name: str
    split: str
    data_dir: Path | None = None
    download: bool = False
    decoding: Decoding = DECODING
    image_column: str | None = None
    label_column: str | None = None

    def find(
        self,
        patterns: Sequence[str],
        how: str,
        fetch: Callable[[Path], object] | None = None,
        elsewhere: Sequence[Path] = (),
    ) -> list[Path]:
        """The files of the first pattern that matches any: in the folder named, or in the usual ones.

        Args:
            patterns: as of Path.glob.
            how: to get the files, for the message where there are none.
            fetch: downloads the set into a folder; called only where a download was asked for.
            elsewhere: folders that are looked at after ./data where none is named.
        """
        home = self.data_dir or HOME
        folders = [home, home / self.name, *(elsewhere if self.data_dir is None else ())]
        for again in (False, True):
            for folder in folders:
                for pattern in patterns:
                    if paths := sorted(folder.glob(pattern)):
                        return paths
            if again or fetch is None or not self.download:
                break
            fetch(home)
        looked = f"no {' or '.join(patterns)} in {' or '.join(map(str, folders))}"
        raise FileNotFoundError(
            f"{self.name} not found: {looked}; {how}{', or ask for its download (--download)' if fetch else ''}"
        )

    def parquet(self, paths: Sequence[Path], classes: tuple[str, ...] = ()) -> Content:
        """Parquet files, with ``classes`` where their schema names none."""
        content = read_parquet(paths, self.decoding, self.image_column, self.label_column)
        return content._replace(classes=content.classes or classes or numbered(content))

    @property
    def shards(self) -> list[str]:
        """Patterns of the parquet files of the split, as people and Hugging Face's hub name them."""
        stems = SPLIT_NAMES[self.split]
        return [
            form.format(stem) for stem in stems for form in ("{}.parquet", "{}-*.parquet", "*/{}-*.parquet")
        ]


def digits(request: Request) -> Content:
    """scikit-learn's 1,797 handwritten digits (0..16 stretched to 0..255): 1,437 to train, 360 to test."""
    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(bunch.target).long()
    return part(Content(images[:, None], labels, tuple("0123456789")), request.split)


def fashion_mnist(request: Request) -> Content:
    """70,000 pictures of clothing, 28x28: IDX files as published, as torchvision keeps them or Debian's."""
    prefix = "train" if request.split == "train" else "t10k"
    images, labels = (
        request.find(
            [f"{stem}-ubyte", f"{stem}-ubyte.gz", f"FashionMNIST/raw/{stem}-ubyte"],
            "install Debian's dataset-fashion-mnist, or name the folder of its four IDX files",
            lambda home: published.FashionMNIST(home, download=True),
            [DEBIAN_FASHION],
        )[0]
        for stem in (f"{prefix}-images-idx3", f"{prefix}-labels-idx1")
    )
    return Content(read_idx(images, 3)[:, None], read_idx(labels, 1).long(), FASHION_CLASSES)


def cifar10(request: Request) -> Content:
    """60,000 photographs of ten classes, 32x32: torchvision's pickles or parquet files."""
    paths = request.find(
        ["cifar-10-batches-py/batches.meta", "batches.meta", *request.shards],
        "name the folder that holds cifar-10-batches-py, or train.parquet and test.parquet",
        lambda home: published.CIFAR10(home, download=True),
    )
    if paths[0].suffix == ".parquet":
        return request.parquet(paths, CIFAR10_CLASSES)
    names = [f"data_batch_{n}" for n in range(1, 6)] if request.split == "train" else ["test_batch"]
    return read_cifar([paths[0].with_name(name) for name in names], paths[0], "labels", "label_names")


def cifar100(request: Request) -> Content:
    """60,000 photographs of a hundred classes, 32x32: torchvision's pickles or parquet files."""
    paths = request.find(
        ["cifar-100-python/meta", *request.shards],
        "name the folder that holds cifar-100-python, or train.parquet and test.parquet",
        lambda home: published.CIFAR100(home, download=True),
    )
    if paths[0].suffix == ".parquet":
        return request.parquet(paths, tuple(map(str, range(100))))
    return read_cifar([paths[0].with_name(request.split)], paths[0], "fine_labels", "fine_label_names")


def svhn(request: Request) -> Content:
    """99,289 house numbers, 32x32: the MATLAB files as published, or parquet files."""
    paths = request.find(
        [f"{request.split}_32x32.mat", *request.shards],
        "name the folder that holds train_32x32.mat and test_32x32.mat",
        lambda home: published.SVHN(str(home), request.split, download=True),
    )
    return read_mat(paths[0]) if paths[0].suffix == ".mat" else request.parquet(paths, tuple("0123456789"))


def imagenet(request: Request) -> Content:
    """A part of ImageNet that fits in memory: train and val with a folder a class; 224x224 by default."""
    how = (
        "it cannot be downloaded freely: name the folder that holds train and val, each with a folder a class"
    )
    folder = request.find(SPLIT_NAMES[request.split], how)[0]
    size = request.decoding.image_size or 224
    return read_folder(folder, request.decoding._replace(image_size=size))


DATA_SETS: dict[str, Callable[[Request], Content]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "imagenet": imagenet,
}


def read_path(request: Request) -> Content:
    """A parquet file, or a folder of parquet files, of train and test (or val), or of classes.

    What has no splits of its own is divided: a fixed stratified fifth is for testing.
    """
    path = Path(request.name)
    if path.is_file():
        return part(request.parquet([path]), request.split)
    for stem in SPLIT_NAMES[request.split]:
        if (path / stem).is_dir():
            return read_folder(path / stem, request.decoding)
    for pattern in request.shards:
        if paths := sorted(path.glob(pattern)):
            return request.parquet(paths)
    for other in SPLIT_NAMES.values():
        if any((path / stem).is_dir() for stem in other) or any(path.glob(f"{other[0]}*.parquet")):
            raise FileNotFoundError(
                f"{path} holds {other[0]} but no {' or '.join(SPLIT_NAMES[request.split])}"
            )
    return part(read_folder(path, request.decoding), request.split)


def read_hub(request: Request) -> Content:
    """A set of Hugging Face's hub, from the local cache unless a download was asked for."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{request.name!r} is no file here; sets of the hub need: pip install datasets"
        ) from error
    config = datasets.DownloadConfig(local_files_only=not request.download)
    held = datasets.load_dataset(request.name, split=request.split, download_config=config)
    content = read_table(
        held.with_format("arrow")[:],
        request.name,
        request.decoding,
        request.image_column,
        request.label_column,
    )
    return content._replace(classes=content.classes or numbered(content))


def part(content: Content, split: str) -> Content:
    """The same four fifths of each class to train and one fifth to test, of what comes undivided."""
    index = np.arange(len(content.labels))
    parts = train_test_split(index, test_size=0.2, random_state=0, stratify=content.labels.numpy())
    index = np.sort(parts[split == "test"])
    return content._replace(images=content.images[index], labels=content.labels[index])


def numbered(content: Content) -> tuple[str, ...]:
    """Names for classes that have none."""
    return tuple(map(str, range(int(content.labels.max()) + 1)))

"""Image sets by name: the layouts of their files, and how to get them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets as published

from posattn.vision.data.decoding import Content
from posattn.vision.data.folders import SPLIT_NAMES, check_same_classes, split_folder
from posattn.vision.data.formats import read_cifar, read_idx, read_mat
from posattn.vision.data.readers import part, read_classes
from posattn.vision.data.request import HOME, Request

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def digits(request: Request) -> Content:
    """scikit-learn's 1,797 handwritten digits (0..16 stretched to 0..255): 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits  # the import takes a second

    request.refuse_columns("digits")
    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(bunch.target).long()
    return part(Content(images[:, None], labels, tuple("0123456789"), arrays=True), request)


def fashion_mnist(request: Request) -> Content:
    """70,000 pictures of clothing, 28x28: IDX files as published, in torchvision's layout or from Debian."""
    request.refuse_columns("fashion-mnist")
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
    return Content(read_idx(images, 3)[:, None], read_idx(labels, 1).long(), FASHION_CLASSES, arrays=True)


def cifar10(request: Request) -> Content:
    """60,000 photographs of ten classes, 32x32: torchvision's pickles or parquet files."""
    paths = request.find(
        ["cifar-10-batches-py/batches.meta", "batches.meta", *request.shards],
        "name the folder that holds cifar-10-batches-py, or train.parquet and test.parquet",
        lambda home: published.CIFAR10(home, download=True),
    )
    if paths[0].suffix == ".parquet":
        return request.parquet(paths, CIFAR10_CLASSES)
    request.refuse_columns(paths[0])
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
    request.refuse_columns(paths[0])
    return read_cifar([paths[0].with_name(request.split)], paths[0], "fine_labels", "fine_label_names")


def svhn(request: Request) -> Content:
    """99,289 house numbers, 32x32: the MATLAB files as published, or parquet files."""
    paths = request.find(
        [f"{request.split}_32x32.mat", *request.shards],
        "name the folder that holds train_32x32.mat and test_32x32.mat",
        lambda home: published.SVHN(str(home), request.split, download=True),
    )
    if paths[0].suffix == ".parquet":
        return request.parquet(paths, tuple("0123456789"))
    request.refuse_columns(paths[0])
    return read_mat(paths[0])


def tiny_imagenet(request: Request) -> Content:
    """110,000 pictures of 200 classes of ImageNet in parquet files; 32x32 by default."""
    return part_of_imagenet(request.at_size(32), 200)


def imagenette(request: Request) -> Content:
    """13,394 pictures of ten classes of ImageNet in parquet files; 64x64 by default."""
    return part_of_imagenet(request.at_size(64), 10)


def part_of_imagenet(request: Request, classes: int) -> Content:
    """A part of ImageNet."""
    return request.parquet(tables_of_part(request), tuple(map(str, range(classes))))


def tables_of_part(request: Request) -> list[Path]:
    """The parquet files of a part of ImageNet."""
    how = "name the folder that holds train.parquet and test.parquet, or give a folder of train and val as --data"
    return request.find(request.shards, how)


def imagenet(request: Request) -> Content:
    """A part of ImageNet that fits in memory: train and val with one folder per class; 224x224 by default."""
    return read_classes(find_split(request), request.at_size(224))


def find_split(request: Request) -> Path:
    """The folder of a split of class folders, checked to have the classes of the other split.

    Raises:
        FileNotFoundError: there is none; the error lists the folders searched.
        ValueError: the splits have other classes.
    """
    home = request.data_dir or HOME
    places = [place for place in (home, home / request.name) if place.is_dir()]
    if found := [folder for place in places if (folder := split_folder(place, request.split))]:
        check_same_classes(found[0], found[0].parent, request.split)
        return found[0]
    raise FileNotFoundError(
        f"{request.name} not found: no {' or '.join(SPLIT_NAMES[request.split])} in {home} or {home / request.name}; "
        "it cannot be downloaded freely: name the folder that holds train and val, each with one folder per class"
    )


DATA_SETS: dict[str, Callable[[Request], Content]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "tiny-imagenet": tiny_imagenet,
    "imagenette": imagenette,
    "imagenet": imagenet,
}

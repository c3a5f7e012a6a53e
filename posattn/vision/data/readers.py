"""Image sets by name: the layouts of their files, where to find them and how to get them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets as published

from posattn.vision.data.decoding import Content, Decoding, decode_all
from posattn.vision.data.folders import SPLIT_NAMES, check_same_classes, list_folder, spellings, split_folder
from posattn.vision.data.formats import read_cifar, read_idx, read_mat
from posattn.vision.data.tables import Columns, Part, parquet_parts, read_parts, saved_parts

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
HOME = Path("data")  # default folder of files and downloads
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
DECODING = Decoding()
SHARDS = ("{}.parquet", "{}-*.parquet", "*/{}-*.parquet")  # common names, also on Hugging Face's hub
PUBLISHED = {"train": ("train",), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class Request:
    """The split of a set to read, its folder and options."""

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
        """The files of the first pattern that matches, in the given folder or the usual ones.

        Args:
            patterns: as of Path.glob.
            how: how to get the files, for the error if there are none.
            fetch: downloads the set into a folder; called only with ``download``.
            elsewhere: folders to search after ./data if none is given.
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
            f"{self.name} not found: {looked}; {how}{', or download it (--download)' if fetch else ''}"
        )

    @property
    def columns(self) -> Columns:
        """The columns to read of a table."""
        return Columns(self.image_column, self.label_column)

    @property
    def other(self) -> "Request":
        """The same request for the other split."""
        return replace(self, split="test" if self.split == "train" else "train")

    def at_size(self, default: int) -> "Request":
        """The same request, resizing to ``default`` where no size is given."""
        size = self.decoding.image_size or default
        return replace(self, decoding=self.decoding._replace(image_size=size))

    def parquet(self, paths: Sequence[Path], classes: tuple[str, ...] = ()) -> Content:
        """Parquet files, with ``classes`` if their schema names none."""
        others = [] if classes else parquet_parts(self.other.shards_in(paths[0].parent))
        return read_parts(parquet_parts(paths), self.decoding, self.columns, classes, others)

    def shards_in(self, folder: Path) -> list[Path]:
        """The parquet files of the split in a folder, under any spelling."""
        patterns = [form.format(stem) for stem in spellings(self.split) for form in SHARDS]
        return next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])

    @property
    def shards(self) -> list[str]:
        """Patterns of the parquet files of a published set's split."""
        return [form.format(stem) for stem in PUBLISHED[self.split] for form in SHARDS]


def digits(request: Request) -> Content:
    """scikit-learn's 1,797 handwritten digits (0..16 stretched to 0..255): 1,437 to train, 360 to test."""
    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(bunch.target).long()
    return part(Content(images[:, None], labels, tuple("0123456789")), request)


def fashion_mnist(request: Request) -> Content:
    """70,000 pictures of clothing, 28x28: IDX files as published, in torchvision's layout or from Debian."""
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


def tiny_imagenet(request: Request) -> Content:
    """110,000 pictures of 200 classes of ImageNet in parquet files; 32x32 by default."""
    return part_of_imagenet(request.at_size(32), 200)


def imagenette(request: Request) -> Content:
    """13,394 pictures of ten classes of ImageNet in parquet files; 64x64 by default."""
    return part_of_imagenet(request.at_size(64), 10)


def part_of_imagenet(request: Request, classes: int) -> Content:
    """Parquet files of a part of ImageNet."""
    how = "name the folder that holds train.parquet and test.parquet, or give a folder of train and val as --data"
    return request.parquet(request.find(request.shards, how), tuple(map(str, range(classes))))


def imagenet(request: Request) -> Content:
    """A part of ImageNet that fits in memory: train and val with one folder per class; 224x224 by default."""
    return read_folder(find_split(request), request.at_size(224).decoding)


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


def read_folder(folder: Path, decoding: Decoding) -> Content:
    """Pictures in one folder per class, as in torchvision's ImageFolder.

    Raises:
        ValueError: there are no class folders, or one is without images.
    """
    paths, classes = list_folder(folder)
    images, kept = decode_all(((path, path) for path, _ in paths), decoding, str(folder))
    labels = torch.tensor([label for _, label in paths])[kept]
    return Content(images, labels, classes, len(paths) - len(kept))


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


def read_path(request: Request) -> Content:
    """A parquet file; a folder of ``save_to_disk``; or a folder of parquet files, of train and test, or of classes.

    Without splits, a fixed stratified fifth is for testing.

    Raises:
        FileNotFoundError: there is the other split and not this one.
        ValueError: what the readers raise.
    """
    path = Path(request.name)
    if path.is_file():
        return part(read_parts(parquet_parts([path]), request.decoding, request.columns), request)
    if (path / "state.json").is_file():
        return part(read_parts(saved_parts(path), request.decoding, request.columns), request)
    if (path / "dataset_dict.json").is_file():
        others = saved_split(path, request.other, needed=False)
        return read_parts(saved_split(path, request), request.decoding, request.columns, (), others)
    if (folder := split_folder(path, request.split)) is not None:
        check_same_classes(folder, path, request.split)
        return read_classes(folder, request)
    if paths := request.shards_in(path):
        return request.parquet(paths)
    if split_folder(path, request.other.split) or request.other.shards_in(path):
        missing(path, request)
    return part(read_classes(path, request), request)


def read_classes(folder: Path, request: Request) -> Content:
    """A folder of class folders. Raises ValueError if the request names columns, or what ``read_folder`` raises."""
    for kind, name in request.columns._asdict().items():
        if name is not None:
            raise ValueError(
                f"{folder} holds pictures in folders, not in a table with the {kind} column {name!r}"
            )
    return read_folder(folder, request.decoding)


def saved_split(path: Path, request: Request, needed: bool = True) -> list[Part]:
    """The tables of a split of a folder of ``DatasetDict.save_to_disk``."""
    folder = split_folder(path, request.split)
    if folder is None and needed:
        missing(path, request)
    return [] if folder is None else saved_parts(folder)


def missing(path: Path, request: Request) -> NoReturn:
    """Raise FileNotFoundError: a folder has the other split but not this one."""
    there, here = SPLIT_NAMES[request.other.split][0], " or ".join(SPLIT_NAMES[request.split])
    raise FileNotFoundError(f"{path} holds {there} but no {here}")


def read_hub(request: Request) -> Content:
    """A set of Hugging Face's hub, from the local cache unless ``download`` is set."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{request.name!r} is no file here; sets of the hub need: pip install datasets"
        ) from error
    config = datasets.DownloadConfig(local_files_only=not request.download)
    held = datasets.load_dataset(request.name, split=request.split, download_config=config)
    table = Part(held.with_format("arrow")[:], request.name)
    return read_parts([table], request.decoding, request.columns)


def part(content: Content, request: Request) -> Content:
    """A fixed division of a set without splits: four fifths of each class to train, one fifth to test.

    Raises:
        ValueError: a class has a single picture, or there are fewer than five pictures per class on average.
    """
    counts = content.labels.bincount(minlength=len(content.classes))
    if single := [name for name, count in zip(content.classes, counts.tolist(), strict=True) if count < 2]:
        raise ValueError(f"{request.name}: {single[0]} has fewer than the 2 pictures that a division takes")
    index = np.arange(len(content.labels))
    try:
        parts = train_test_split(index, test_size=0.2, random_state=0, stratify=content.labels.numpy())
    except ValueError as error:
        raise ValueError(f"{request.name} cannot be divided into train and test: {error}") from error
    index = np.sort(parts[request.split == "test"])
    return content._replace(images=content.images[index], labels=content.labels[index])

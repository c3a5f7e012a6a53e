"""Image sets of the user: a path, or a name on Hugging Face's hub."""

from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from posattn.vision.data.decoding import Content, Decoding, decode_all
from posattn.vision.data.folders import SPLIT_NAMES, check_same_classes, list_folder, split_folder, subfolders
from posattn.vision.data.request import Request
from posattn.vision.data.tables import Part, parquet_parts, read_parts, saved_parts


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
        others = parquet_parts(request.other.shards_in(path))
        return read_parts(parquet_parts(paths), request.decoding, request.columns, (), others)
    if split_folder(path, request.other.split) or request.other.shards_in(path):
        missing(path, request)
    if not subfolders(path) and (tables := sorted(path.glob("*.parquet"))):
        raise ValueError(
            f"{tables[0]} names no split, as train.parquet does; a set in one file is named by its path"
        )
    return part(read_classes(path, request), request)


def read_classes(folder: Path, request: Request) -> Content:
    """A folder of class folders. Raises ValueError if the request names columns, or what ``read_folder`` raises."""
    request.refuse_columns(folder)
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


def read_folder(folder: Path, decoding: Decoding) -> Content:
    """Pictures in one folder per class, as in torchvision's ImageFolder.

    Raises:
        ValueError: there are no class folders, or one is without images.
    """
    paths, classes = list_folder(folder)
    images, kept = decode_all(((path, path) for path, _ in paths), decoding, str(folder))
    labels = torch.tensor([label for _, label in paths])[kept]
    return Content(images, labels, classes, len(paths) - len(kept))


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
    from sklearn.model_selection import train_test_split  # the import takes a second

    counts = content.labels.bincount(minlength=len(content.classes))
    if single := [name for name, count in zip(content.classes, counts.tolist(), strict=True) if count < 2]:
        raise ValueError(f"{request.name}: {single[0]} has fewer than the 2 pictures that a division takes")
    index = np.arange(len(content.labels))
    try:
        parts = train_test_split(index, test_size=0.2, random_state=0, stratify=content.labels.numpy())
    except ValueError as error:
        raise ValueError(f"{request.name} cannot be divided into train and test: {error}") from error
    index = np.sort(parts[request.split == "test"])
    return content._replace(images=content.images[index], labels=content.labels[index], divided=True)

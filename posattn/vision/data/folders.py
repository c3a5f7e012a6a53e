"""Pictures in a folder for each class, and the folders of the splits around them."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from posattn.vision.data.decoding import extensions

SPLIT_NAMES = {  # case-insensitive; the first with class folders is taken
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "eval", "dev"),
}
IGNORED = {"__MACOSX"}  # in addition to hidden folders such as .ipynb_checkpoints
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face's imagefolder


def spellings(split: str) -> tuple[str, ...]:
    """The names that a split may have."""
    return tuple(form for stem in SPLIT_NAMES[split] for form in (stem, stem.capitalize(), stem.upper()))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that may hold pictures, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and visible(path.name))


def visible(name: str) -> bool:
    """Whether a file or folder is neither hidden nor created by a system."""
    return not name.startswith(".") and name not in IGNORED


def split_folder(folder: Path, split: str) -> Path | None:
    """The folder of a split in a folder, None if there is none. Raises ValueError if two names differ by case only."""
    found = {path.name.lower(): path for path in subfolders(folder)}
    twice = [path for path in subfolders(folder) if path != found[path.name.lower()]]
    if twice and twice[0].name.lower() in SPLIT_NAMES[split]:
        raise ValueError(f"{twice[0]} and {found[twice[0].name.lower()].name}: which is the {split} split?")
    candidates = [found[stem] for stem in SPLIT_NAMES[split] if stem in found]
    return next((path for path in candidates if subfolders(path)), candidates[0] if candidates else None)


def split_of(name: str) -> str | None:
    """The split that the name of a folder suggests, as in ``seg_train`` or ``test_images``; None for other names."""
    words = set(re.findall("[a-z]+", name.lower()))
    return next((split for split, stems in SPLIT_NAMES.items() if words & set(stems)), None)


def list_classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders of a folder.

    Raises:
        ValueError: there are none; they look like splits; or labels are in a metadata file, which is not read.
    """
    for name in METADATA:
        if (folder / name).is_file():
            raise ValueError(
                f"{folder / name} is metadata of Hugging Face's imagefolder, which is not read: "
                "use class folders, parquet files or a folder of save_to_disk"
            )
    classes = tuple(path.name for path in subfolders(folder))
    if not classes:
        split = split_of(folder.name)
        hint = f"; its name is that of a {split} split, rename it if it is a class" if split else ""
        raise ValueError(f"{folder}: couldn't find any class folder{hint}")
    check_no_splits(folder, classes)
    return classes


def check_no_splits(folder: Path, names: Iterable[str]) -> None:
    """Raise ValueError if class folders, or folders inside them, look like splits."""
    looks = {split: name for name in names if (split := split_of(name))}
    if len(looks) > 1:
        raise ValueError(
            f"{folder}: {looks['train']} and {looks['test']} look like splits, not like classes: "
            f"name the folder that holds {' or '.join(SPLIT_NAMES['train'])} and {' or '.join(SPLIT_NAMES['test'])}"
        )


def list_folder(folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """The pictures of a folder with their labels, and the names of its classes.

    Raises:
        ValueError: as ``list_classes`` and ``pictures_below``; or a class is without pictures.
    """
    classes = list_classes(folder)
    check_no_loop(str(folder), classes)
    found = [pictures_below(folder / name) for name in classes]
    if empty := [name for name, pictures in zip(classes, found, strict=True) if not pictures]:
        raise ValueError(f"{folder}: found no valid file for the classes {', '.join(empty)}")
    return [(path, label) for label, pictures in enumerate(found) for path in pictures], classes


def pictures_below(folder: Path) -> list[str]:
    """The pictures in a folder and below, in order; a folder that links lead to again is read once.

    Raises ValueError if folders below look like splits, or one is a link to a folder that it is in.
    """
    found: list[str] = []
    for place, folders, files in walk(folder):
        check_no_loop(place, folders)
        check_no_splits(Path(place), folders)
        found += [
            os.path.join(place, name) for name in files if os.path.splitext(name)[1].lower() in extensions()
        ]
    return sorted(found)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` in order through links, without hidden names; a folder that links lead to again is read once.

    Raises OSError naming a folder that cannot be read, which ``os.walk`` skips.
    """

    def stop(error: OSError) -> None:
        raise error

    reached: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        if (real := os.path.realpath(place)) in reached:
            folders.clear()
            continue
        reached.add(real)
        folders[:] = sorted(filter(visible, folders))
        yield place, folders, sorted(filter(visible, files))


def check_no_loop(place: str, folders: Iterable[str]) -> None:
    """Raise ValueError if one of the folders in a place is a link to that place or to one around it."""
    around = {os.path.realpath(place)}
    around |= {str(each) for each in Path(os.path.realpath(place)).parents}
    for link in (os.path.join(place, name) for name in folders):
        if os.path.islink(link) and (target := os.path.realpath(link)) in around:
            raise ValueError(f"{link} is a link to {target}, which it is in")


def check_same_classes(folder: Path, parent: Path, split: str) -> None:
    """Raise ValueError if the two splits have different class folders."""
    other = split_folder(parent, "test" if split == "train" else "train")
    if other is not None and other != folder and subfolders(other):
        check_same(str(folder), list_classes(folder), str(other), list_classes(other))


def check_splits(name: str, train: Sequence[str], test: Sequence[str]) -> None:
    """Raise ValueError if a label is not the same class in both splits of a set, given the classes of each."""
    check_same(f"the train split of {name}", train, f"the test split of {name}", test)


def check_same(one: str, ours: Sequence[str], other: str, theirs: Sequence[str]) -> None:
    """Raise ValueError naming the classes that only one of two splits has, else the first label that they differ in.

    ``ours`` and ``theirs`` are the names of the labels from 0 on: a label must be the same class in both splits.
    """
    parts = [
        f"only in {place}: {', '.join(sorted(only)[:10])}"
        for place, only in ((one, {*ours} - {*theirs}), (other, {*theirs} - {*ours}))
        if only
    ]
    if parts:
        raise ValueError(f"{one} and {other} have not the same classes; {'; '.join(parts)}")
    for label, (mine, its) in enumerate(zip_longest(ours, theirs)):
        if mine != its:
            raise ValueError(f"label {label} is {mine} in {one} and {its} in {other}")

"""Class folders as people have them: what is a split, what is a class, and what is neither."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import encoded, write_folder

from posattn.vision.data.config import DataConfig
from posattn.vision.data.folders import pictures_below
from posattn.vision.data.images import load_images
from posattn.vision.data.pictures import visible_files
from posattn.vision.data.streams import stream_images

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def picture(colour: str) -> bytes:
    pixels = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
    return encoded(pixels.expand(3, 8, 8))


def write_split(folder: Path, classes: list[str], count: int = 2) -> None:
    write_folder(folder, {f"{name}/{n}.png": picture(name) for name in classes for n in range(count)})


def true_names(loaded: object) -> list[str]:
    """The colour that each image has."""
    brightest = loaded.images.float().mean((2, 3)).argmax(1)
    return [{0: "red", 1: "green", 2: "blue"}[each] for each in brightest.tolist()]


SPELLINGS = [
    ("train", "test"),
    ("Training", "Testing"),
    ("TRAIN", "Val"),
    ("training", "validation"),
    ("Train", "valid"),
]


@pytest.mark.parametrize(("train", "test"), SPELLINGS)
def test_splits_are_known_under_their_usual_names(train: str, test: str, tmp_path: Path) -> None:
    for name in (train, test):
        write_split(tmp_path / name, ["blue", "green", "red"], count=2 if name == train else 1)
    for split, count in (("train", 6), ("test", 3)):
        loaded = load_images(str(tmp_path), split)
        assert loaded.classes == ("blue", "green", "red")
        assert len(loaded) == len(stream_images("x", split, tmp_path, workers=1)) == count
        assert [loaded.classes[label] for label in loaded.labels.tolist()] == true_names(loaded)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_of_other_classes_are_refused_by_the_classes_names(
    split: str, stream: bool, tmp_path: Path
) -> None:
    write_split(tmp_path / "train", ["blue", "green", "red"])
    write_split(tmp_path / "val", ["green", "red"])
    with pytest.raises(ValueError, match=r"have not the same classes; only in .*train: blue$"):
        DataConfig(str(tmp_path), stream=stream).load(split)


@pytest.mark.parametrize(
    "names", [("seg_train", "seg_test"), ("train_images", "val_images"), ("my-training", "testing2")]
)
def test_what_looks_like_splits_is_never_two_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        write_split(tmp_path / name, ["blue", "red"])
    with pytest.raises(ValueError, match=f"{names[0]} and {names[1]} look like splits, not like classes"):
        load_images(str(tmp_path))


def test_splits_inside_one_folder_are_not_one_class(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_split(tmp_path / "archive" / name, ["blue", "red"])
    with pytest.raises(ValueError, match="archive: train and test look like splits"):
        load_images(str(tmp_path))


def test_a_name_with_the_letters_of_a_split_is_a_class(tmp_path: Path) -> None:
    write_folder(
        tmp_path, {f"{name}/{n}.png": picture("red") for name in ("trainer", "contest") for n in range(5)}
    )
    assert load_images(str(tmp_path)).classes == ("contest", "trainer")


def test_two_spellings_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "Train", "test"):
        write_split(tmp_path / name, ["blue", "red"])
    with pytest.raises(ValueError, match="which is the train split"):
        load_images(str(tmp_path))


def test_a_test_split_without_classes_gives_way_to_one_with_them(tmp_path: Path) -> None:
    write_split(tmp_path / "train", ["blue", "red"])
    write_split(tmp_path / "val", ["blue", "red"], count=3)
    write_folder(tmp_path / "test", {"1.png": picture("red")})
    assert len(load_images(str(tmp_path), "test")) == 6


def test_hidden_files_and_those_of_tools_are_no_pictures_and_no_classes(tmp_path: Path) -> None:
    write_split(tmp_path / "train", ["blue", "red"])
    clutter = (
        ".ipynb_checkpoints/1.png",
        "__MACOSX/1.png",
        ".git/1.png",
        "red/.ipynb_checkpoints/2.png",
        "red/._1.png",
    )
    write_folder(tmp_path / "train", dict.fromkeys((*clutter, "blue/__MACOSX/1.png"), picture("green")))
    write_folder(tmp_path, {"__MACOSX/train/green/1.png": picture("green")})
    loaded = load_images(str(tmp_path))
    assert loaded.classes == ("blue", "red")
    assert true_names(loaded) == ["blue", "blue", "red", "red"]


def test_a_class_with_the_name_of_a_split_is_explained(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{name}/0.png": picture("red") for name in ("train", "plane")})
    with pytest.raises(ValueError, match="its name is that of a train split, rename it if it is a class"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_metadata_of_imagefolder_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    write_split(tmp_path / "train", ["blue", "red"])
    (tmp_path / "train" / name).write_text("file_name,label\n")
    with pytest.raises(
        ValueError, match=f"train/{name} is metadata of Hugging Face's imagefolder, which is not read"
    ):
        load_images(str(tmp_path))


def test_a_class_that_cannot_be_divided_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, ["blue", "red"], count=5)
    write_split(tmp_path, ["green"], count=1)
    with pytest.raises(ValueError, match=f"^{tmp_path}: green has fewer than the 2 pictures"):
        load_images(str(tmp_path))
    (tmp_path / "green" / "0.png").rename(tmp_path / "green" / "0.txt")
    with pytest.raises(ValueError, match=f"^{tmp_path}: found no valid file for the classes green"):
        load_images(str(tmp_path))
    write_split(tmp_path / "few", ["blue", "red"], count=2)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'few'} cannot be divided into train and test"):
        load_images(str(tmp_path / "few"))


def test_a_decompression_bomb_is_refused_at_a_bound_that_is_named(tmp_path: Path) -> None:
    from PIL import Image

    write_split(tmp_path / "train", ["blue", "red"])
    Image.fromarray(np.zeros((14_000, 14_000), bool)).save(tmp_path / "train" / "red" / "bomb.png")
    with pytest.raises(
        ValueError, match=r"bomb\.png cannot be decoded: Image size \(196000000 pixels\) exceeds .*178956970"
    ):
        load_images(str(tmp_path))
    assert load_images(str(tmp_path), skip_corrupt=True).skipped == 1


def test_a_link_to_a_folder_around_it_is_named(tmp_path: Path) -> None:
    write_split(tmp_path / "train", ["blue", "red"])
    (tmp_path / "train" / "red" / "all").symlink_to("..")
    with pytest.raises(ValueError, match=r"train/red/all is a link to .*train, which it is in"):
        load_images(str(tmp_path))


def test_a_class_that_is_a_link_to_a_folder_around_it_is_named(tmp_path: Path) -> None:
    write_split(tmp_path / "set", ["blue", "red"])
    (tmp_path / "set" / "root").symlink_to("/")
    with pytest.raises(ValueError, match=r"set/root is a link to /, which it is in"):
        load_images(str(tmp_path / "set"))


def test_folders_that_link_to_one_another_are_read_once(tmp_path: Path) -> None:
    write_split(tmp_path / "red", ["blue", "green"])
    for one, other in (("blue", "green"), ("green", "blue")):
        for number in range(3):
            (tmp_path / "red" / one / f"link{number}").symlink_to(tmp_path / "red" / other)
    found = pictures_below(tmp_path / "red")
    assert len(found) == len({os.path.realpath(path) for path in found})
    assert len(found) == sum(1 for path in (tmp_path / "red").rglob("*.png"))


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    write_split(tmp_path, ["blue", "red"])
    os.mkfifo(tmp_path / "red" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png cannot be decoded: it is not a regular file"):
        load_images(str(tmp_path))


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read every folder, so the error of the system is simulated."""
    write_split(tmp_path, ["blue", "red"])
    (tmp_path / "red" / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (pictures_below, lambda path: list(visible_files(path))):
        with pytest.raises(PermissionError, match="red/closed"):
            read(tmp_path)

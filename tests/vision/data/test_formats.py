"""The layouts that people have image sets in, written as they are and read back."""

import io
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from layouts import encoded, noise, write_cifar, write_folder, write_svhn
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as published

from posattn.vision.data.formats import read_pickle
from posattn.vision.data.images import load_images


def test_the_pickles_of_cifar10(tmp_path: Path) -> None:
    sizes = {f"data_batch_{n}": n + 1 for n in range(1, 6)}
    names = {"label_names": list("abcdefghij")}
    folder = tmp_path / "cifar-10-batches-py"
    images = write_cifar(folder, sizes, "labels", "batches.meta", names)
    for place in (tmp_path, folder):
        loaded = load_images("cifar10", data_dir=place)
        assert torch.equal(loaded.images, images)
        assert loaded.labels.tolist() == [i for size in sizes.values() for i in range(size)]
        assert loaded.classes == tuple("abcdefghij")
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3"):
        load_images("cifar10", data_dir=tmp_path)


def test_the_pickles_of_cifar100(tmp_path: Path) -> None:
    names = {"fine_label_names": [f"class {i}" for i in range(100)]}
    images = write_cifar(tmp_path / "cifar-100-python", {"test": 12}, "fine_labels", "meta", names)
    loaded = load_images("cifar100", "test", tmp_path)
    assert torch.equal(loaded.images, images)
    assert loaded.num_classes == 100


def test_real_torchvision_reads_the_same_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"fine_label_names": [f"class {i}" for i in range(100)]}
    write_cifar(tmp_path / "cifar-100-python", {"test": 12, "train": 1}, "fine_labels", "meta", names)
    monkeypatch.setattr(published.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    theirs = published.CIFAR100(tmp_path, train=False)
    ours = load_images("cifar100", "test", tmp_path)
    assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert ours.labels.tolist() == theirs.targets


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code was run')",)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Harmful()}))
    with pytest.raises(ValueError, match=r"batch is not a whole pickle .*exec does not belong"):
        read_pickle(path)
    path.write_bytes(pickle.dumps({"data": np.zeros(500)})[:300])
    with pytest.raises(ValueError, match="is not a whole pickle"):
        read_pickle(path)


def test_the_matlab_files_of_svhn(tmp_path: Path) -> None:
    path = tmp_path / "test_32x32.mat"
    images, digits = write_svhn(path, 12)
    loaded = load_images("svhn", "test", tmp_path)
    assert torch.equal(loaded.images, images)
    assert loaded.labels.tolist() == digits
    assert {0, 1, 9} <= set(digits)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"test_32x32\.mat is not a whole MATLAB file"):
        load_images("svhn", "test", tmp_path)


def test_class_folders_of_any_picture(tmp_path: Path) -> None:
    pixels = noise(3, 8, 8)
    modes = {"cat/a.png": "RGB", "cat/b.png": "L", "dog/c.png": "RGBA", "dog/d.png": "P", "dog/e.png": "1"}
    write_folder(tmp_path / "val", {name: encoded(pixels, mode) for name, mode in modes.items()})
    (tmp_path / "val" / "cat" / "notes.txt").write_text("no picture")
    loaded = load_images(str(tmp_path), "test")
    assert loaded.classes == ("cat", "dog")
    assert loaded.labels.tolist() == [0, 0, 1, 1, 1]
    assert loaded.shape == (3, 8, 8)
    assert torch.equal(loaded.images[0], pixels)
    assert torch.equal(loaded.images[2], pixels)
    assert (loaded.images[1] == loaded.images[1, :1]).all()
    with pytest.raises(FileNotFoundError, match="holds test but no train"):
        load_images(str(tmp_path), "train")


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat/a.png": encoded(noise(3, 8, 8)), "dog/readme.txt": b"nothing"})
    with pytest.raises(ValueError, match=r"train: .*no valid file for the classes dog"):
        load_images(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: .*any class folder"):
        load_images(str(tmp_path / "empty"))
    (tmp_path / "empty" / "0000.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0000\.parquet names no split, as train\.parquet does"):
        load_images(str(tmp_path / "empty"))


def test_sizes_must_agree_or_be_made_to(tmp_path: Path) -> None:
    write_folder(
        tmp_path / "train", {"a/1.png": encoded(noise(3, 8, 8)), "a/2.png": encoded(noise(3, 12, 20))}
    )
    with pytest.raises(ValueError, match=r"differ in size \(8x8 and 12x20, .*2\.png\): give an image_size"):
        load_images(str(tmp_path))
    assert load_images(str(tmp_path), image_size=6).shape == (3, 6, 6)


def test_corrupt_pictures_stop_unless_they_are_skipped(tmp_path: Path) -> None:
    good = encoded(noise(3, 8, 8))
    pictures = {"a/1.png": good, "a/2.png": good[:60], "b/3.png": b"", "b/4.png": good}
    write_folder(tmp_path / "train", pictures)
    with pytest.raises(ValueError, match=r"a/2\.png cannot be decoded"):
        load_images(str(tmp_path))
    loaded = load_images(str(tmp_path), skip_corrupt=True)
    assert loaded.skipped == 2
    assert loaded.labels.tolist() == [0, 1]
    write_folder(tmp_path / "train", dict.fromkeys(pictures, b""))
    with pytest.raises(ValueError, match="no image that can be decoded"):
        load_images(str(tmp_path), skip_corrupt=True)


def test_skipped_pictures_of_a_set_without_splits_are_of_both_parts(tmp_path: Path) -> None:
    good = encoded(noise(3, 4, 4))
    write_folder(tmp_path, {f"{name}/{place}.png": good for name in "ab" for place in range(5)})
    (tmp_path / "a" / "bad.png").write_bytes(good[:60])
    sets = [load_images(str(tmp_path), split, skip_corrupt=True) for split in ("train", "test")]
    assert [(len(each), each.skipped, each.divided) for each in sets] == [(8, 1, True), (2, 1, True)]
    assert not load_images("digits").skipped


def test_a_set_without_splits_is_divided(tmp_path: Path) -> None:
    images = noise(20, 3, 4, 4)
    rows = [{"bytes": encoded(image), "path": None} for image in images]
    path = tmp_path / "all.parquet"
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(20)]}), path)
    train, test = load_images(str(path)), load_images(str(path), "test")
    assert (len(train), len(test)) == (16, 4)
    assert test.labels.sum() == 2
    both = {image.numpy().tobytes() for image in torch.cat([train.images, test.images])}
    assert both == {image.numpy().tobytes() for image in images}


def test_shards_and_other_columns(tmp_path: Path) -> None:
    images = noise(6, 3, 4, 4)
    (tmp_path / "data").mkdir()
    for shard in (0, 1):
        rows = [encoded(image) for image in images[3 * shard :][:3]]
        table = pa.table({"picture": rows, "kind": [0, 1, 2], "text": ["x"] * 3})
        pq.write_table(table, tmp_path / "data" / f"train-0000{shard}-of-00002.parquet")
    with pytest.raises(ValueError, match="only picture, kind, text: name it with image_column"):
        load_images(str(tmp_path))
    assert load_images(str(tmp_path), image_column="picture", label_column="text").classes == ("x",)
    loaded = load_images(str(tmp_path), image_column="picture", label_column="kind")
    assert torch.equal(loaded.images, images)
    assert loaded.classes == ("0", "1", "2")


def test_columns_that_hold_something_else(tmp_path: Path) -> None:
    path, picture = tmp_path / "train.parquet", encoded(noise(3, 4, 4))
    pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), path)
    with pytest.raises(ValueError, match=r"train\.parquet: column image holds string, not encoded pictures"):
        load_images(str(tmp_path))
    pq.write_table(pa.table({"image": [picture, picture], "label": [0, None]}), path)
    with pytest.raises(ValueError, match=r"train\.parquet: row 1 has no label in column label"):
        load_images(str(tmp_path))
    pq.write_table(pa.table({"image": [picture], "label": [-1]}), path)
    with pytest.raises(
        ValueError, match=r"train\.parquet: row 0 has the label -1, which means no label in column label"
    ):
        load_images(str(tmp_path))


def test_grayscale_and_transparent_pictures_among_rgb_in_parquet(tmp_path: Path) -> None:
    pixels = noise(3, 4, 4)
    rows = [encoded(pixels, mode) for mode in ("RGB", "L", "RGBA")] + [b"", None]
    table = pa.table({"image": [{"bytes": row, "path": None} for row in rows], "label": [0, 1, 2, 0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    loaded = load_images(str(tmp_path), skip_corrupt=True)
    assert (len(loaded), loaded.skipped, loaded.shape) == (3, 2, (3, 4, 4))
    assert torch.equal(loaded.images[[0, 2]], pixels.expand(2, -1, -1, -1))
    assert (loaded.images[1] == loaded.images[1, :1]).all()
    with pytest.raises(ValueError, match=r"image 3 of .*train\.parquet, column image, cannot be decoded"):
        load_images(str(tmp_path))


def test_named_sets_are_resized_too() -> None:
    small, large = load_images("digits"), load_images("digits", image_size=16)
    assert large.shape == (1, 16, 16)
    blurred = large.images.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    assert (blurred - small.images.float()).abs().mean() < 12  # of 255: the same pictures
    assert torch.equal(load_images("digits", image_size=8).images, small.images)


def test_the_layout_of_imagenet(tmp_path: Path) -> None:
    pictures = {f"{wnid}/{wnid}_1.JPEG": encoded(noise(3, 30, 50)) for wnid in ("n01440764", "n01443537")}
    write_folder(tmp_path / "val", pictures)
    loaded = load_images("imagenet", "test", tmp_path)
    assert loaded.shape == (3, 224, 224)
    assert loaded.classes == ("n01440764", "n01443537")
    with pytest.raises(
        FileNotFoundError, match=r"imagenet not found: no train or training in .*cannot be downloaded"
    ):
        load_images("imagenet", "train", tmp_path)


def test_nothing_is_downloaded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(root: Path, **options: object) -> None:
        fetched.append(root)
        names = {"fine_label_names": [str(i) for i in range(100)]}
        write_cifar(Path(root) / "cifar-100-python", {"train": 3}, "fine_labels", "meta", names)

    monkeypatch.setattr(published, "CIFAR100", download)
    with pytest.raises(FileNotFoundError, match="or download it"):
        load_images("cifar100", data_dir=tmp_path)
    assert fetched == []
    assert len(load_images("cifar100", data_dir=tmp_path, download=True)) == 3
    assert fetched == [tmp_path]


def test_a_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    images, calls = noise(2, 3, 4, 4), []
    table = pa.table({"img": [{"bytes": encoded(image), "path": None} for image in images], "label": [1, 0]})

    class Rows:
        def with_format(self, name: str) -> "Rows":
            assert name == "arrow"
            return self

        def __getitem__(self, rows: slice) -> pa.Table:
            return table[rows]

    def load_dataset(name: str, split: str, download_config: dict[str, bool]) -> Rows:
        calls.append((name, split, download_config))
        return Rows()

    hub = types.SimpleNamespace(load_dataset=load_dataset, DownloadConfig=dict)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    loaded = load_images("someone/pictures", "test")
    assert torch.equal(loaded.images, images)
    assert calls == [("someone/pictures", "test", {"local_files_only": True})]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"'someone/pictures' is no file here; .*pip install datasets"):
        load_images("someone/pictures")


@pytest.mark.parametrize("label", [77, -3, 0, 1.5])
def test_labels_that_svhn_cannot_have_are_named(label: float, tmp_path: Path) -> None:
    images = np.zeros((32, 32, 3, 2), np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.array([[10], [label]])})
    with pytest.raises(
        ValueError, match=rf"test_32x32\.mat: label {label} of image 1 is not an integer from 1 to 10"
    ):
        load_images("svhn", "test", tmp_path)


@pytest.mark.parametrize("column", ["label_column", "image_column"])
@pytest.mark.parametrize(
    "name", ["a folder", "imagenet", "cifar10", "cifar100", "svhn", "digits", "fashion-mnist"]
)
def test_columns_of_no_table_are_refused(name: str, column: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / split, {f"{each}/0.png": encoded(noise(3, 4, 4)) for each in ("cat", "dog")})
    write_cifar(tmp_path / "cifar-10-batches-py", {"test_batch": 3}, "labels", "batches.meta", {})
    write_cifar(tmp_path / "cifar-100-python", {"test": 3}, "fine_labels", "meta", {})
    write_svhn(tmp_path / "test_32x32.mat", 3)
    path, place = (str(tmp_path), None) if name == "a folder" else (name, tmp_path)
    with pytest.raises(ValueError, match=rf"^{column} is not for .*, which is no table; got 'kind'$"):
        load_images(path, "test", place, **{column: "kind"})


def write_table(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(picture, "png")
    pq.write_table(pa.table({"image": [picture.getvalue()] * 4, "label": [0, 1, 0, 1]}), path)


@pytest.mark.parametrize(
    "own",
    [
        "train.parquet",
        "train-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
        "digits/train-00000-of-00001.parquet",
    ],
)
def test_another_set_beside_a_set_is_not_read(own: str, tmp_path: Path) -> None:
    write_table(tmp_path / "svhn" / own, 1)
    write_table(tmp_path / "cifar10" / "train-00000-of-00001.parquet", 2)
    write_table(tmp_path / "train.parquet", 3)
    for data_dir in (tmp_path, tmp_path / "svhn"):
        assert load_images("svhn", data_dir=data_dir).images.unique().tolist() == [1]


def test_a_set_that_is_not_there_is_not_another(tmp_path: Path) -> None:
    write_table(tmp_path / "cifar10" / "train-00000-of-00001.parquet", 2)
    with pytest.raises(FileNotFoundError, match="svhn not found"):
        load_images("svhn", data_dir=tmp_path)


def test_tables_of_several_folders_are_not_pooled(tmp_path: Path) -> None:
    for name in ("cropped", "full"):
        write_table(tmp_path / "svhn" / name / "train-00000-of-00001.parquet", 1)
    for name, data_dir in (("svhn", tmp_path), (str(tmp_path / "svhn"), None)):
        with pytest.raises(ValueError, match=r"holds tables in .*cropped and .*full: give one of these"):
            load_images(name, data_dir=data_dir)

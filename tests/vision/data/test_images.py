"""Image sets are read whole and right, and what is damaged or missing is named."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Generator

from posattn.vision.data.config import DataConfig
from posattn.vision.data.images import ImageSet, load_images, shuffle_patches, to_float


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=Generator().manual_seed(0))


def write_idx(path: Path, values: torch.Tensor) -> None:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    data = header + values.numpy().tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def png(pixels: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "png")
    return stream.getvalue()


def write_parquet(path: Path, images: list[bytes], labels: list[int], names: tuple[str, ...] = ()) -> None:
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    table = pa.table({"img": [{"bytes": image, "path": None} for image in images], "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_digits_are_those_of_scikit_learn() -> None:
    train, test = load_images("digits"), load_images("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == (1, 8, 8)
    assert train.num_classes == 10
    pixels = torch.cat([train.images, test.images]).flatten(1)
    ours = {bytes(row) for row in (pixels.double() * 16 / 255).round().byte().numpy()}
    assert ours == {bytes(row) for row in load_digits().data.astype(np.uint8)}


def test_the_split_of_the_digits_is_stratified_and_fixed() -> None:
    train, test = load_images("digits"), load_images("digits", "test")
    shares = torch.bincount(test.labels) / (torch.bincount(train.labels) + torch.bincount(test.labels))
    assert (shares - 0.2).abs().max() < 0.005
    assert torch.equal(load_images("digits").images, train.images)


@pytest.mark.parametrize("layout", ["train-images-idx3-ubyte.gz", "FashionMNIST/raw/train-images-idx3-ubyte"])
def test_idx_files_are_read(tmp_path: Path, layout: str) -> None:
    images, labels = noise(12, 28, 28), torch.arange(12).remainder(10).byte()
    path = tmp_path / layout
    path.parent.mkdir(parents=True, exist_ok=True)
    write_idx(path, images)
    write_idx(path.with_name(path.name.replace("images-idx3", "labels-idx1")), labels)
    loaded = load_images("fashion-mnist", data_dir=tmp_path)
    assert torch.equal(loaded.images[:, 0], images)
    assert torch.equal(loaded.labels, labels.long())
    assert loaded.classes[9] == "Ankle boot"


def idx_header(*shape: int) -> bytes:
    return bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-20], "is not a whole gzip file"),
        (lambda data: b"\0" * 40, "is not a whole gzip file"),
        (lambda data: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(data)[4:]), "is not an IDX file of 3"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-9]), r"should hold \(3, 28, 28\) bytes"),
        (
            lambda data: gzip.compress(idx_header(3, 2**32 - 1, 2**32 - 1)),
            r"should hold .* not from 1 to 17,179",
        ),
        (lambda data: gzip.compress(idx_header(0, 28, 28)), r"should hold \(0, 28, 28\) bytes: not from 1"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    write_idx(path, noise(3, 28, 28))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", torch.zeros(3, dtype=torch.uint8))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path.name} {message}"):
        load_images("fashion-mnist", "test", tmp_path)


def test_parquet_files_are_read(tmp_path: Path) -> None:
    images = noise(6, 3, 32, 32)
    write_parquet(tmp_path / "test.parquet", [png(image) for image in images], [0, 1, 2, 0, 1, 2])
    loaded = load_images("cifar10", "test", tmp_path)
    assert torch.equal(loaded.images, images)
    assert loaded.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert loaded.classes[:2] == ("airplane", "automobile")


def test_class_names_come_from_the_schema(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(noise(3, 4, 4))], [1], ("cat", "dog"))
    assert load_images("cifar10", data_dir=tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(("name", "size", "classes"), [("tiny-imagenet", 32, 200), ("imagenette", 64, 10)])
def test_parts_of_imagenet_have_a_size_of_their_own(
    name: str, size: int, classes: int, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    for split, sides in (("train", (8, size)), ("test", (size, 70))):
        write_parquet(
            tmp_path / name / f"{split}.parquet",
            [png(noise(3, side, side)) for side in sides],
            [classes - 1, 0],
        )
        images = load_images(name, split, tmp_path)
        assert (images.shape, images.num_classes, images.name) == ((3, size, size), classes, name)
        assert images.labels.tolist() == [classes - 1, 0]
        assert torch.equal(images.images[sides.index(size)], noise(3, size, size))
    assert load_images(name, "train", tmp_path, image_size=16).shape == (3, 16, 16)


def test_what_is_wrong_with_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    good = png(noise(3, 8, 8))
    write_parquet(path, [good, good[:50]], [0, 1])
    with pytest.raises(ValueError, match=r"image 1 of .*train\.parquet, column img, cannot be decoded"):
        load_images("cifar10", data_dir=tmp_path)
    write_parquet(path, [good, good], [0, 10])
    with pytest.raises(ValueError, match=r"label 10 of image 1 of cifar10 is outside 0\.\.9"):
        load_images("cifar10", data_dir=tmp_path)
    pq.write_table(pa.table({"picture": [good], "class": [0]}), path)
    with pytest.raises(
        ValueError, match="no image column img or image, only picture, class: name it with image_column"
    ):
        load_images("cifar10", data_dir=tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"train\.parquet is not a whole parquet file"):
        load_images("cifar10", data_dir=tmp_path)


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnits'; known: cifar10, .*digits, fashion-mnist"
    ):
        load_images("mnits")
    with pytest.raises(ValueError, match="unknown data set ''"):  # as a path it is the current folder
        load_images("")
    with pytest.raises(ValueError, match="data must be a set, a path or owner/name, got ''"):
        DataConfig("", stream=True).validate()
    with pytest.raises(ValueError, match="unknown split 'val'; known: test, train"):
        load_images("digits", "val")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_missing_set_says_where_it_was_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} not found: no .* in {tmp_path}.*; ") as caught:
        load_images(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_set_checks_itself() -> None:
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must be .* uint8"):
        ImageSet("x", noise(0, 1, 2, 2), labels[:0], ("a",))
    with pytest.raises(ValueError, match=r"must be \(3,\) long, got \(2,\)"):
        ImageSet("x", noise(3, 1, 2, 2), labels[:2], ("a",))
    with pytest.raises(ValueError, match=r"label -1 of image 0 of x is outside 0\.\.0"):
        ImageSet("x", noise(3, 1, 2, 2), labels - 1, ("a",))


def test_pixels_fill_the_range() -> None:
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)).flatten().tolist() == [
        -1,
        1,
    ]


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_shuffled_patches_are_the_patches(patch_size: int) -> None:
    images = noise(2, 3, 8, 12)
    count = (8 // patch_size) * (12 // patch_size)
    permutation = torch.randperm(count, generator=Generator().manual_seed(1))
    shuffled = shuffle_patches(images, patch_size, permutation)
    for place, source in enumerate(permutation.tolist()):
        assert torch.equal(patch(shuffled, patch_size, place), patch(images, patch_size, source))
    assert torch.equal(shuffle_patches(shuffled, patch_size, permutation.argsort()), images)


def patch(images: torch.Tensor, size: int, place: int) -> torch.Tensor:
    row, column = divmod(place, images.shape[-1] // size)
    return images[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size]


def test_shuffling_checks_its_arguments() -> None:
    images = noise(2, 1, 8, 8)
    with pytest.raises(ValueError, match="patch_size must divide image height"):
        shuffle_patches(images, 3, torch.arange(4))
    with pytest.raises(ValueError, match=r"each of 0\.\.3 once, got \[0, 1, 2, 2\]"):
        shuffle_patches(images, 4, torch.tensor([0, 1, 2, 2]))

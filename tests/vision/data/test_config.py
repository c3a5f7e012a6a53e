"""An image set as settings: its flags, what it loads, and what config.json keeps of it."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import timm
import torch
import tyro
from PIL import Image
from torch import Generator, nn

from posattn.runs.folder import describe
from posattn.settings import check
from posattn.vision.data.config import DataConfig
from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import evaluate, train

WNIDS = ("n01440764", "n01443537")


@dataclass(frozen=True)
class Settings:
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    seed: int = 0


def parse(*arguments: str) -> Settings:
    return tyro.cli(Settings, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout: JPEG files of any size in folders of WordNet ids, below train and val."""
    root, draw = tmp_path_factory.mktemp("imagenet"), Generator().manual_seed(0)
    for split, count in (("train", 12), ("val", 4)):
        for number in range(count):
            wnid = WNIDS[number % 2]
            size = (24 + number, 40 - number, 3)
            pixels = torch.randint(128, size, dtype=torch.uint8, generator=draw) + 120 * (number % 2)
            path = root / split / wnid / f"{wnid}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = io.BytesIO()
            Image.fromarray(pixels.numpy()).save(stream, "jpeg")
            path.write_bytes(stream.getvalue())
    (root / "train" / WNIDS[0] / "corrupt.JPEG").write_bytes(stream.getvalue()[:200])
    return root


def test_the_flags_have_no_prefix(tmp_path: Path) -> None:
    given = ["--data", "cifar10", "--data-dir", str(tmp_path), "--download", "--skip-corrupt", "--stream"]
    given += ["--image-size", "16", "--image-column", "a", "--label-column", "b", "--workers", "2"]
    expected = DataConfig("cifar10", tmp_path, True, 16, True, "a", "b", True, 2)
    assert parse(*given).data == expected
    kept = describe("images", Settings(expected))["config"]["data"]
    assert kept["data_dir"] == str(tmp_path)
    assert json.loads(json.dumps(kept)) == kept


def test_what_is_asked_for_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = DataConfig().load("test")
    assert isinstance(loaded, ImageSet)
    assert torch.equal(loaded.images, load_images("digits", "test").images)
    with pytest.raises(FileNotFoundError, match=f"cifar10 not found: no .* in {tmp_path}.*--download"):
        DataConfig("cifar10", tmp_path).load("train")


def test_every_setting_reaches_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def read(name: str, split: str, data_dir: Path, **options: object) -> ImageSet:
        seen.update(options)
        return load_images("digits", split)

    monkeypatch.setattr("posattn.vision.data.images.load_images", read)
    DataConfig("cifar10", tmp_path, True, 16, True, "a", "b").load("train")
    assert seen == {
        "download": True,
        "image_size": 16,
        "skip_corrupt": True,
        "image_column": "a",
        "label_column": "b",
    }


def tiny_vit(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **sizes)


def test_imagenet_goes_through_the_same_loop(imagenet: Path) -> None:
    config = DataConfig("imagenet", imagenet, image_size=16, skip_corrupt=True, workers=1)
    train_set, test_set = config.load("train"), config.load("test")
    assert isinstance(train_set, ImageStream)
    assert train_set.crop
    assert isinstance(test_set, ImageStream)
    assert not test_set.crop
    assert (len(train_set), train_set.skipped, len(test_set)) == (12, 1, 4)
    assert train_set.classes == WNIDS
    model = tiny_vit(2)
    recipe = TrainConfig(epochs=4, batch_size=6, lr=1e-2, warmup_epochs=0.0, flip=True, record_every=1)
    *_, last = train(model, train_set, recipe)
    assert last.step == 8
    assert evaluate(model, test_set) == 1.0  # the two classes differ in brightness


def test_any_folder_can_be_streamed(imagenet: Path) -> None:
    test_set = DataConfig(str(imagenet), stream=True, image_size=8, workers=1).load("test")
    assert isinstance(test_set, ImageStream)
    assert len(test_set) == 4
    assert DataConfig("imagenet", imagenet).load("test").shape == (3, 224, 224)
    with pytest.raises(FileNotFoundError, match="imagenet not found: no train or training in"):
        DataConfig("imagenet", imagenet / "val").load("train")


def test_folders_in_data_are_no_named_set(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(imagenet)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="digits not found"):
        DataConfig("digits", stream=True).load("test")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (DataConfig("./pictures", Path("elsewhere")), "--data-dir is not for ./pictures, .* got 'elsewhere'"),
        (DataConfig("digits", Path("elsewhere")), "--data-dir is not for digits, .* got 'elsewhere'"),
        (DataConfig("owner/name", Path("elsewhere")), "--data-dir is not for owner/name"),
        (DataConfig("imagenette", download=True), "--download is not for imagenette"),
        (DataConfig(".", download=True), "--download is not for ."),
        (
            DataConfig("fashion-mnist", label_column="kind"),
            "--label-column is not for fashion-mnist.* got 'kind'",
        ),
        (DataConfig("cifar10", workers=3), "--workers is for a stream .* got 3"),
        (DataConfig("digits", stream=True), "--stream is for folders of classes and imagenet, got digits"),
        (DataConfig("cifar10", Path("elsewhere"), stream=True), "--stream is for .* got cifar10"),
        (DataConfig("imagenet", label_column="kind"), "--label-column is not for imagenet"),
    ],
)
def test_a_setting_that_the_set_does_not_read_is_refused(settings: DataConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(settings)

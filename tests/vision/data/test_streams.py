"""Pictures read as they are needed are those of the folder, in order, and crops follow the seed."""

import io
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Generator, nn

from posattn.vision.data.images import load_images
from posattn.vision.data.streams import ImageStream, stream_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import evaluate, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    draw = Generator().manual_seed(0)
    for number in range(24):
        pixels = torch.randint(256, (20, 28, 3), dtype=torch.uint8, generator=draw).numpy()
        path = root / "train" / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        Image.fromarray(pixels).convert(["RGB", "L", "RGBA"][number % 3]).save(stream, "png")
        path.write_bytes(stream.getvalue())
    return root


def open_stream(folder: Path, **options: object) -> ImageStream:
    return stream_images("imagenet", "train", folder, workers=1, **{"image_size": 16} | options)


def collect(stream: ImageStream, parts: list[list[int]], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*stream.batches(map(torch.tensor, parts), seed), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_the_centre_without_crops(folder: Path) -> None:
    stream = open_stream(folder, crop=False)
    images, labels = collect(stream, [[5, 0], [23]])
    whole = load_images(str(folder), image_size=16)
    assert images.dtype == torch.uint8
    assert images.shape == (3, *stream.shape)
    assert labels.tolist() == whole.labels[[5, 0, 23]].tolist()
    for number, picture in enumerate((5, 0, 23)):  # not the same crop, yet nearest to the right picture
        distance = (images[number].float() - whole.images.float()).abs().flatten(1).mean(1)
        assert distance.argmin() == picture


def test_crops_follow_the_seed_and_the_picture_alone(folder: Path) -> None:
    stream = open_stream(folder)
    one, _ = collect(stream, [[0, 1, 2, 3], [4, 5]], seed=1)
    other, _ = collect(stream, [[5, 4], [3], [2, 1, 0]], seed=1)
    assert torch.equal(one, other.flip(0))
    assert not torch.equal(one, collect(stream, [[0, 1, 2, 3], [4, 5]], seed=2)[0])


def tiny_vit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3
    )


def test_a_training_on_a_stream_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    stream = open_stream(folder)
    config = TrainConfig(
        epochs=2,
        warmup_epochs=0.5,
        batch_size=4,
        padding=1,
        policy="trivial",
        record_every=1,
        checkpoint_every=2,
    )
    whole = tiny_vit()
    expected = [record.loss for record in train(whole, stream, config)]
    run = train(tiny_vit(), stream, config, checkpoints=tmp_path)
    # the checkpoint of step 4 is written after its record is used
    seen = [next(run).loss for _ in range(4)][:2]
    run.close()
    model = tiny_vit(seed=1)
    seen += [record.loss for record in train(model, stream, config, checkpoints=tmp_path)]
    assert seen == expected
    assert evaluate(model, replace(stream, crop=False)) == evaluate(whole, replace(stream, crop=False))


def test_a_corrupt_picture_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "train" / "a" / "bad.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^[^\n]*bad\.png cannot be decoded"):
        collect(open_stream(tmp_path), [[0]])


def test_corrupt_pictures_are_skipped_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """The rest is the set as if they had never been there: its batches, and a training on them."""
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    good = (folder / "train" / "a" / "00.png").read_bytes()
    (damaged / "train" / "a" / "0.png").write_bytes(good[:300])  # cut short, and first in the order
    (damaged / "train" / "c" / "05b.png").write_bytes(b"no picture")
    clean, skipping = open_stream(folder), open_stream(damaged, skip_corrupt=True)
    assert (len(skipping), skipping.skipped, clean.skipped) == (len(clean), 2, 0)
    for one, other in zip(collect(skipping, [[0, 7], [23]]), collect(clean, [[0, 7], [23]]), strict=True):
        assert torch.equal(one, other)
    config = TrainConfig(
        epochs=1, warmup_epochs=0.5, batch_size=4, padding=1, policy="trivial", checkpoint_every=2
    )
    expected = [record.loss for record in train(tiny_vit(), clean, config)]
    run = train(tiny_vit(), skipping, config, checkpoints=tmp_path / "kept")
    next(run), next(run)
    run.close()
    again = [record.loss for record in train(tiny_vit(1), skipping, config, checkpoints=tmp_path / "kept")]
    assert again == expected[1:]


def test_a_stream_needs_pictures(tmp_path: Path) -> None:
    path = tmp_path / "train" / "a" / "bad.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"there is no image that can be decoded in .*train"):
        open_stream(tmp_path, skip_corrupt=True)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="no valid file for the classes empty"):
        open_stream(tmp_path)


def test_bad_arguments_are_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"imagenet not found: no test or testing or val or .* in"):
        stream_images("imagenet", "test", folder)
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        open_stream(folder, image_size=0)


@pytest.mark.parametrize("damaged", [None, b"no picture"])
def test_a_picture_that_goes_while_it_is_read_is_named(
    damaged: bytes | None, folder: Path, tmp_path: Path
) -> None:
    """Removed or altered between two epochs: one line, and another digest for a resumed run."""
    shutil.copytree(folder, tmp_path / "set")
    stream = open_stream(tmp_path / "set")
    before = stream.digest
    collect(stream, [[0, 1]])
    path = Path(stream.pictures[1][0])
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"^[^\n]*{path.name} cannot be decoded: [^\n]+$"):
        collect(stream, [[0, 1]])
    assert not multiprocessing.active_children()  # the workers end at once
    assert open_stream(tmp_path / "set").digest != before

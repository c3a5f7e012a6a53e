"""Rates of loading and of training steps are of what the training loop does."""

import io
import time
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Generator

from posattn.bench.loading import Work, consumption, endless, memory_loading, rates, stream_loading
from posattn.runs.device import Precision
from posattn.vision.data.augment import POLICIES
from posattn.vision.data.images import ImageSet, load_images, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.config import TrainConfig


def few(n: int = 50) -> ImageSet:
    return load_images("digits").select(torch.arange(n))


def test_rates_count_the_images_of_a_turn() -> None:
    """Sleeps of known length, the quick one repeated until its turn lasts as long as the slow one's."""
    calls: list[str] = []

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    found = rates(
        {"quick": Work(lambda: work("quick", 0.01), 10), "slow": Work(lambda: work("slow", 0.1), 7)}, 3
    )
    assert {name: len(values) for name, values in found.items()} == {"quick": 3, "slow": 3}
    assert max(found["quick"]) <= 10 / 0.01  # a sleep may last longer, never shorter
    assert max(found["slow"]) <= 7 / 0.1
    assert calls.count("slow") == 2 + 4
    assert calls.count("quick") > 2 + 4


def test_batches_without_end_are_those_of_the_set() -> None:
    data, config = few(), TrainConfig(batch_size=16)
    feed = endless(data, config)
    epoch = [next(feed) for _ in range(3)]
    pixels, labels = (torch.cat(parts) for parts in zip(*epoch, strict=True))
    seen = {bytes(image.numpy()) for image in pixels}
    assert len(seen) == 48
    assert seen <= {bytes(image.numpy()) for image in to_float(data.images)}
    by_image = {bytes(i.numpy()): int(y) for i, y in zip(to_float(data.images), data.labels, strict=True)}
    assert [by_image[bytes(image.numpy())] for image in pixels] == labels.tolist()
    again, _ = (torch.cat(parts) for parts in zip(*(next(feed) for _ in range(3)), strict=True))
    assert not torch.equal(again, pixels)  # another epoch, another order
    mixed, targets = next(endless(data, TrainConfig(batch_size=16, mixup=1.0, padding=1)))
    assert mixed.shape == (16, 1, 8, 8)
    assert torch.allclose(targets.sum(1), torch.ones(16))


@pytest.mark.parametrize(("count", "size"), [(50, 16), (700, 8)])
def test_a_policy_is_timed_on_as_many_images_as_are_loaded(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    changed: list[int] = []

    def policy(images: torch.Tensor) -> torch.Tensor:
        changed.append(len(images))
        return images

    monkeypatch.setitem(POLICIES, "trivial", policy)
    work = memory_loading(few(count), TrainConfig(batch_size=size, policy="trivial"))
    for turn in range(1, 12):
        work.call()
        assert sum(changed) == turn * work.images


def test_a_training_step_of_the_model_is_what_is_timed() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, in_chans=1
    )
    before = [p.detach().clone() for p in model.parameters()]
    precisions: list[Precision] = ["float32", "bfloat16"]
    for precision in precisions:
        work = consumption(model, (1, 8, 8), TrainConfig(batch_size=16, precision=precision))
        work.call()
        assert work.images == 16
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True) if b.ndim > 1)


def test_the_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    rates({"load": memory_loading(few(), TrainConfig(batch_size=16, policy="trivial"))}, 2)
    assert torch.equal(torch.rand(2), expected)


def test_a_stream_is_decoded(tmp_path: Path) -> None:
    draw, pictures = Generator().manual_seed(0), []
    for number in range(8):
        stream = io.BytesIO()
        pixels = torch.randint(256, (12, 12, 3), dtype=torch.uint8, generator=draw)
        Image.fromarray(pixels.numpy()).save(stream, "png")
        path = tmp_path / f"{number}.png"
        path.write_bytes(stream.getvalue())
        pictures.append((str(path), number % 2))
    source = ImageStream("tiny", pictures, ("a", "b"), 8, crop=True)
    work = stream_loading(source, TrainConfig(batch_size=2), 3)
    assert work.images == 6
    assert len(rates({"decoding": work}, 2)["decoding"]) == 2
    (tmp_path / "5.png").write_bytes(b"no picture")  # the sixth and last that is taken
    with pytest.raises(ValueError, match=r"5\.png cannot be decoded"):
        work.call()
    with pytest.raises(ValueError, match="at most 8, the pictures, got 10"):
        stream_loading(source, TrainConfig(batch_size=2), 5)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="batch_size must be at most 50, the images, got 64"):
        memory_loading(few(), TrainConfig(batch_size=64))
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        rates({"load": memory_loading(few(), TrainConfig(batch_size=16))}, 0)

"""Random changes of batches: what they may and may not do to an image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from posattn.vision.data.augment import POLICIES, apply_policy, batches_together, make_mixer, random_crop_flip


def noise(*shape: int) -> Tensor:
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=Generator().manual_seed(0))


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    images, padding = noise(64, 3, 5, 7), 2
    padded = F.pad(images, (padding,) * 4)
    seen = set()
    for image, source in zip(random_crop_flip(images, padding, True), padded, strict=True):
        places = [
            (top, left, mirrored)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for mirrored in (False, True)
            if torch.equal(image.flip(-1) if mirrored else image, source[:, top : top + 5, left : left + 7])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 30  # of 50: each image has its own draw


def test_shifts_and_mirrors_are_uniform() -> None:
    torch.manual_seed(0)
    marked = torch.zeros(20000, 1, 5, 5, dtype=torch.uint8)
    marked[:, :, 2, 2] = 1
    place = random_crop_flip(marked, 1, False).flatten(1).argmax(1)
    counts = torch.bincount(place, minlength=25)[[6, 7, 8, 11, 12, 13, 16, 17, 18]]
    assert counts.sum() == 20000
    assert (counts / 20000 - 1 / 9).abs().max() < 0.01
    marked = torch.arange(3, dtype=torch.uint8).expand(20000, 1, 3, 3)
    flipped = (random_crop_flip(marked, 0, True)[:, 0, 0, 0] == 2).double().mean()
    assert abs(flipped - 0.5) < 0.015


def test_nothing_asked_changes_nothing() -> None:
    images = noise(4, 1, 8, 8)
    assert torch.equal(random_crop_flip(images, 0, False), images)
    assert make_mixer(0.0, 0.0, 10) is None
    assert make_mixer(0.8, 1.0, 10, mix_prob=0.0) is None


@pytest.mark.parametrize("policy", ["trivial", "rand"])
@pytest.mark.parametrize(("count", "group"), [(8, 8), (128, 8), (129, 9), (512, 32)])
def test_a_policy_is_drawn_for_each_group(count: int, group: int, policy: str) -> None:
    torch.manual_seed(0)
    image = noise(1, 3, 16, 16)
    (batches,) = zip(
        *(apply_policy([image.expand(count, -1, -1, -1)], policy) for _ in range(40)), strict=True
    )
    groups = [each for batch in batches for each in batch.split(group)]
    assert all(each.dtype == torch.uint8 and (each == each[:1]).all() for each in groups)
    assert len({each[0].numpy().tobytes() for each in groups}) > 20


def test_batches_share_the_draws_of_a_policy_and_keep_their_images() -> None:
    torch.manual_seed(0)
    image = noise(1, 3, 16, 16).expand(128, -1, -1, -1)
    batches = apply_policy([image] * 8, "trivial")
    assert len(batches) == 8
    for batch in batches:
        assert torch.equal(batch, batches[0])  # each draw is for as many images of every batch
        assert all((each == each[:1]).all() for each in batch.split(8))
    assert len({each.numpy().tobytes() for each in batches[0]}) > 8


class Inverted:
    """A policy that changes every image in a known way."""

    def __call__(self, images: Tensor) -> Tensor:
        return 255 - images


def test_every_image_stays_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "trivial", Inverted())
    batches = noise(5, 24, 3, 4, 6)
    assert torch.equal(torch.stack(apply_policy([*batches], "trivial")), 255 - batches)


@pytest.mark.parametrize(
    ("size", "side", "together"),
    [(128, 32, 8), (512, 32, 2), (1024, 32, 1), (2048, 32, 1), (128, 64, 2), (16, 224, 1)],
)
def test_how_many_batches_a_policy_is_applied_to(size: int, side: int, together: int) -> None:
    assert batches_together(size, side, side) == together


def test_mixing_keeps_the_sum_of_labels_and_the_range_of_pixels() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16)
    for mixup, cutmix in ((0.5, 0.0), (0.0, 1.0), (0.5, 1.0)):
        mixer = make_mixer(mixup, cutmix, 16)
        assert mixer is not None
        mixed, targets = mixer(images, labels)
        assert torch.allclose(targets.sum(1), torch.ones(16))
        assert ((targets > 0).sum(1) <= 2).all()
        assert mixed.min() >= images.min()
        assert mixed.max() <= images.max()


def test_mixup_mixes_pixels_as_it_mixes_labels() -> None:
    torch.manual_seed(1)
    images = torch.eye(16).reshape(16, 1, 4, 4)  # an image is its own one-hot label
    mixer = make_mixer(1.0, 0.0, 16)
    assert mixer is not None
    mixed, targets = mixer(images, torch.arange(16))
    assert torch.allclose(mixed.flatten(1), targets)


def test_a_share_of_the_batches_is_mixed() -> None:
    torch.manual_seed(2)
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    mixer = make_mixer(0.5, 1.0, 4, 0.3)
    assert mixer is not None
    drawn = [mixer(images, labels) for _ in range(400)]
    kept = [torch.equal(targets, labels) and torch.equal(mixed, images) for mixed, targets in drawn]
    assert all(kept[i] == (drawn[i][1].ndim == 1) for i in range(400))
    assert abs(sum(kept) / 400 - 0.7) < 0.07

"""Random changes of batches: what they may and may not do to an image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from posattn.vision.data.augment import augment, make_mixer, random_crop_flip


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
    assert torch.equal(augment(images, 0, False, "none"), images)
    assert make_mixer(0.0, 0.0, 10) is None


@pytest.mark.parametrize("policy", ["trivial", "rand"])
@pytest.mark.parametrize(("count", "group"), [(8, 8), (128, 8), (129, 9), (512, 32)])
def test_a_policy_is_drawn_for_each_group(count: int, group: int, policy: str) -> None:
    torch.manual_seed(0)
    image = noise(1, 3, 16, 16)
    batches = [augment(image.expand(count, -1, -1, -1), 0, False, policy).split(group) for _ in range(40)]
    groups = [each for batch in batches for each in batch]
    assert all(each.dtype == torch.uint8 and (each == each[:1]).all() for each in groups)
    assert len({each[0].numpy().tobytes() for each in groups}) > 20


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

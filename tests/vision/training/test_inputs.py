"""The batches of an epoch: the same from wherever a training continues."""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Generator, Tensor

from posattn.vision.data.augment import derived_seed
from posattn.vision.data.images import ImageSet
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.inputs import epoch_batches


def some(side: int = 8) -> ImageSet:
    images = torch.randint(256, (300, 3, side, side), dtype=torch.uint8, generator=Generator().manual_seed(0))
    return ImageSet("noise", images, torch.arange(300) % 10, tuple("abcdefghij"))


def draws(first: int) -> int:
    return derived_seed(5, 3, first)


def batches(parts: list[Tensor], policy: str, start: int = 0, side: int = 8) -> list[tuple[Tensor, Tensor]]:
    return list(epoch_batches(some(side), parts, policy, 0, draws, start))


@pytest.mark.parametrize("policy", ["none", "trivial", "rand"])
@pytest.mark.parametrize("size", [4, 30, 300])
@pytest.mark.parametrize("side", [8, 128])
def test_a_batch_does_not_depend_on_where_the_epoch_is_entered(size: int, side: int, policy: str) -> None:
    """At 8 px, 256 batches of 4 go together, more than there are; at 128 px, 16."""
    parts = list(torch.randperm(300, generator=Generator().manual_seed(1)).split(size))
    whole = batches(parts, policy, side=side)
    assert len(whole) == len(parts)
    for part, (_, labels) in zip(parts, whole, strict=True):
        assert torch.equal(labels, part % 10)
    for start in {1, len(parts) // 2, len(parts) - 1} - {0}:
        rest = batches(parts, policy, start, side)
        assert len(rest) == len(parts) - start
        for (image, label), (other, same) in zip(rest, whole[start:], strict=True):
            assert torch.equal(image, other)
            assert torch.equal(label, same)


class Counted(ImageStream):
    """A stream of black images that counts the batches that were taken."""

    taken = 0

    def batches(self, parts: Iterable[Tensor], seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for part in parts:
            Counted.taken += 1
            yield torch.zeros(len(part), 3, 8, 8, dtype=torch.uint8), part


def test_a_stream_is_not_waited_for_by_several_batches() -> None:
    """Workers decode the later ones meanwhile."""
    stream = Counted("black", [("", 0)] * 60, ("a", "b"), 8)
    for number, (_, labels) in enumerate(
        epoch_batches(stream, [*torch.arange(60).split(6)], "trivial", 0, draws)
    ):
        assert torch.equal(labels, torch.arange(6) + 6 * number)
        assert Counted.taken == number + 1


def test_a_policy_draws_from_its_own_seed_alone() -> None:
    parts = list(torch.arange(300).split(30))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = batches(parts, "trivial")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, batches(parts, "trivial"), strict=True))
    assert not torch.equal(first[0][0], some().images[parts[0]])

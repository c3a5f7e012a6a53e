"""Tasks of other distributions: unequal and overlapping sets, other labels, signals and noise."""

import math

import pytest
import torch
from small_tasks import DIM, PARTITION, D, made
from torch import Generator, Tensor

from posattn.structure.partition import Cover, Partition
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy, accuracy_in_law
from posattn.theory.descent import descend
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe


class Skewed(StructuredTask):
    def draw_sets(self, n: int, *, generator: Generator | None = None) -> Tensor:
        return torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), n, True, generator=generator)


class Mislabelled(StructuredTask):
    rate = 0.15

    def observe(self, labels: Tensor, *, generator: Generator | None = None) -> Tensor:
        return torch.where(torch.rand(len(labels), generator=generator) < self.rate, -labels, labels)


class HeavyTailed(StructuredTask):
    def draw_noise(self, n: int, *, generator: Generator | None = None) -> Tensor:
        chi = torch.randn(4, n, D, DIM, generator=generator).square().mean(0)
        return super().draw_noise(n, generator=generator) / chi.sqrt()  # Student's t, 4 degrees


class Correlated(StructuredTask):
    def draw_noise(self, n: int, *, generator: Generator | None = None) -> Tensor:
        shared = super().draw_noise(n, generator=generator)[:, :1]
        return 0.6 * shared + 0.8 * super().draw_noise(n, generator=generator)


def test_sets_of_unequal_probability(generator: Generator) -> None:
    task = made(Skewed, generator)
    share = torch.bincount(task.sample(4000, generator=generator).informative) / 4000
    assert (share - torch.tensor([0.7, 0.2, 0.1])).abs().max() < 5 * math.sqrt(0.25 / 4000)


def test_label_noise_reaches_the_labels_alone_also_in_law(generator: Generator) -> None:
    task = made(Mislabelled, generator)
    batch = task.sample(4000, generator=generator)
    carried = batch.signal.gather(1, PARTITION.sets[batch.informative][:, :1]).flatten()
    assert abs((carried != batch.labels).double().mean() - 0.15) < 5 * math.sqrt(0.15 * 0.85 / 4000)
    model = solutions.associated(
        PARTITION, StructuredTask(PARTITION, dim=DIM, noise_rate=0.0, feature=task.feature)
    )
    task.noise_rate = 0.0
    right = accuracy_in_law(model, task, 4000, generator=generator)
    assert abs(right - 0.85) < 5 * math.sqrt(0.15 * 0.85 / 4000)


@pytest.mark.parametrize("kind", [HeavyTailed, Correlated])
def test_other_noise_leaves_the_signal_and_is_refused_in_law(
    generator: Generator, kind: type[StructuredTask]
) -> None:
    task = made(kind, generator)
    batch = task.sample(4000, generator=generator)
    torch.testing.assert_close(batch.patches @ task.feature, batch.signal, atol=1e-5, rtol=0)
    assert (task.label(batch.patches) == batch.labels).float().mean() > 0.9
    noise = batch.patches - batch.signal[..., None] * task.feature
    between = (noise[:, 0] * noise[:, 4]).sum(-1).mean() / noise.square().sum(-1).mean()
    fourth = (noise / noise.std()).pow(4).mean().item()
    assert (fourth > 6) == (kind is HeavyTailed)  # 3 for a Gaussian
    assert between.item() == pytest.approx(0.36 if kind is Correlated else 0.0, abs=0.05)
    model = SimplifiedViT(D, DIM)
    message = f"in law does not hold for {kind.__name__}, which overrides draw_noise: train on its patches"
    with pytest.raises(TypeError, match=message):
        descend_in_law(model, task, 4, 1, 0.1)
    with pytest.raises(TypeError, match=message):
        accuracy_in_law(model, task, 4)
    assert len(list(descend(model, lambda: task.sample(4, generator=generator), 2, 0.1))) == 2


def test_the_twin_keeps_the_law_of_a_subclass(generator: Generator) -> None:
    task = made(Mislabelled, generator)
    task.rate = 0.4  # type: ignore[attr-defined]
    twin = task.downstream(generator=generator)
    assert type(twin) is Mislabelled
    assert twin.rate == 0.4
    assert twin.feature.norm().item() == pytest.approx(1, abs=1e-6)
    assert not torch.equal(twin.feature, task.feature)


def test_unequal_sets_count_from_nine_tenths_of_their_own_size(generator: Generator) -> None:
    """Sets of 2, 10 and 4, and two patches in none: signs by hand."""
    partition = Partition([0] * 2 + [1] * 10 + [-1] * 2 + [2] * 4)
    feature = torch.eye(3)[0]
    task = StructuredTask(partition, dim=3, noise_rate=0.2, feature=feature)
    signal = torch.zeros(5, 18)
    signal[0, :2] = 1  # all of a set of 2 counts
    signal[1, 2:11] = -1  # 9 of 10 count
    signal[2, 2:10] = 1  # 8 of 10 do not
    signal[3, 12:17] = 1  # 3 of 4 do not, nor do patches in no set
    signal[4, :2], signal[4, 2:12] = 1, -1  # the larger sum wins
    assert task.label(signal[..., None] * feature).tolist() == [1, -1, 0, 0, -1]
    batch = task.sample(3000, generator=generator)
    outside = batch.signal[:, 12:14]
    assert abs((outside != 0).double().mean() - 0.2) < 5 * math.sqrt(0.16 / 6000)
    for size, members in ((2, slice(0, 2)), (10, slice(2, 12)), (4, slice(14, 18))):
        here = batch.informative == {2: 0, 10: 1, 4: 2}[size]
        assert (batch.signal[here][:, members] == batch.labels[here][:, None]).all()
    model = solutions.associated(partition, task)
    torch.testing.assert_close(
        model.attention()[12:14].detach(), torch.full((2, 18), 1 / 18), atol=0.1, rtol=0
    )
    assert describe(model, task, batch)["exact"] == 1
    list(descend_in_law(SimplifiedViT(18, 3), task, 4, 2, 0.1, generator=generator))


def test_overlapping_sets_are_sampled_and_refused_where_nothing_is_defined(generator: Generator) -> None:
    cover = Cover(torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1]]).bool())
    task = StructuredTask(cover, dim=4, noise_rate=0.0, generator=generator)
    batch = task.sample(300, generator=generator)
    assert torch.equal(batch.signal != 0, cover.membership[batch.informative])
    assert torch.equal(task.label(batch.patches), batch.labels)
    model = SimplifiedViT(6, 4, generator=generator)
    list(descend(model, lambda: batch, 3, 0.1))
    list(descend_in_law(model, task, 8, 3, 0.1, generator=generator))
    assert 0 <= accuracy(model, batch) <= 1
    for refused in (
        lambda: describe(model, task, batch),
        lambda: solutions.associated(cover, task),
        lambda: solutions.delegates(cover, task),
        lambda: cover.same,
    ):
        with pytest.raises(
            ValueError, match=r"is not defined for overlapping sets: patch 0 is in sets \[0, 2\]"
        ):
            refused()

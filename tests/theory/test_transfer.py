"""Starts of a downstream model."""

import copy
import itertools

import pytest
import torch
from torch import Generator

from posattn import Partition, SimplifiedViT, StructuredTask
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy
from posattn.theory.descent import descend, minibatches
from posattn.theory.simplified import logistic_loss
from posattn.theory.transfer import fit, fresh_start, frozen_attention, transferred_attention


def test_frozen_attention_stays_and_the_value_learns(generator: Generator) -> None:
    partition = Partition.random(32, 4, generator=generator)
    task = StructuredTask(partition, dim=16, noise_rate=0.2, generator=generator)
    learned = SimplifiedViT(32, 16, 5, 0.03, 1.5, 1.0, generator=generator)
    model = frozen_attention(learned, generator=generator)
    few = task.sample(64, generator=generator)
    start = model.value.detach().clone()
    for _ in descend(model, lambda: few, 5, 0.1):
        pass
    assert torch.equal(model.scores, learned.scores)
    assert not torch.equal(model.value, start)
    assert model.scale == learned.scale == 1.0


def test_a_fresh_start_shares_the_setting_and_no_parameter(generator: Generator) -> None:
    learned = SimplifiedViT(8, 4, 7, 0.5, 1.0, 3.0, generator=generator)
    model = fresh_start(learned, generator=generator)
    assert (model.power, model.linear, model.diagonal, model.scale) == (7, 0.5, 1.0, 3.0)
    assert not torch.equal(model.scores, learned.scores)
    assert not torch.equal(model.value, learned.value)


def test_accuracy_counts_signs_and_zero_is_wrong(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(4, 2), dim=3, noise_rate=0.0, generator=generator)
    batch = task.sample(100, generator=generator)
    model = SimplifiedViT(4, 3, init_std=0.0)
    assert accuracy(model, batch) == 0.0
    model.value.data = task.feature.clone()
    assert accuracy(model, batch) == 1.0
    model.value.data = -task.feature
    assert accuracy(model, batch) == 0.0


@pytest.mark.parametrize("options", [{}, {"normalize": True, "decay": True}])
def test_fit_takes_the_steps_it_says(generator: Generator, options: dict[str, bool]) -> None:
    """In float64, against autograd and a loop written out; all samples are in every batch."""
    feature = torch.randn(6, generator=generator, dtype=torch.double)
    task = StructuredTask(Partition.contiguous(8, 2), dim=6, noise_rate=0.4, feature=feature)
    few = task.sample(5, generator=generator)
    fitted = SimplifiedViT(8, 6, init_std=0.1, generator=generator).double()
    expected = copy.deepcopy(fitted)
    losses = [step.loss for step in fit(fitted, few, 5, 4, 0.03, value_rate=0.005, **options)]
    for loss, share in zip(losses, (1.0, 0.75, 0.5, 0.25), strict=True):
        expected.zero_grad()
        of_batch = logistic_loss(expected(few.patches), few.labels)
        of_batch.backward()
        assert loss == pytest.approx(of_batch.item(), rel=1e-8)  # softplus is linear beyond 20
        for parameter, rate in ((expected.scores, 0.03), (expected.value, 0.005)):
            step = rate * parameter.grad
            parameter.data -= share * step / parameter.grad.norm() if options else step
    torch.testing.assert_close(fitted.scores, expected.scores)
    torch.testing.assert_close(fitted.value, expected.value)


def test_fine_tuning_moves_the_attention_no_more_than_its_gradient(generator: Generator) -> None:
    """A gradient a thousand times smaller moves A a thousand times less; unit-norm steps move it all the same."""
    task = StructuredTask(Partition.contiguous(12, 3), dim=6, noise_rate=0.2, generator=generator)
    few, moved = task.sample(8, generator=generator), []
    for length in (1e-4, 1e-7):  # ∂L/∂A is linear in a v as small as that
        model = SimplifiedViT(12, 6, init_std=0.0)
        model.value.data = length * task.feature
        before = model.scores.detach().clone()
        list(fit(model, few, 8, 1, 0.1))
        moved.append((model.scores.detach() - before).norm().item())
    assert moved[1] == pytest.approx(1e-3 * moved[0], rel=0.01)


def test_fit_leaves_frozen_scores_and_ends_at_the_tolerance(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(16, 4), dim=8, noise_rate=0.1, generator=generator)
    model = frozen_attention(solutions.associated(task.partition, task), generator=generator)
    before = model.scores.detach().clone()
    few = task.sample(40, generator=generator)
    losses = [step.loss for step in fit(model, few, 16, 500, 0.01, tolerance=1e-3)]
    assert torch.equal(model.scores, before)
    assert 2 <= len(losses) < 500
    assert all(loss < 1e-3 for loss in losses[-2:])  # an epoch has two batches
    assert accuracy(model, task.sample(500, generator=generator)) == 1.0


def test_minibatches_hold_each_sample_once_an_epoch(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(4, 2), dim=3, noise_rate=0.5, generator=generator)
    samples = task.sample(11, generator=generator)
    epoch = list(itertools.islice(minibatches(samples, 3, generator=generator), 3))
    seen = torch.cat([batch.patches for batch in epoch])[:, 0, 0]
    assert [len(batch.labels) for batch in epoch] == [3, 3, 3]
    assert len(set(seen.tolist()) & set(samples.patches[:, 0, 0].tolist())) == 9
    assert next(minibatches(samples, 11)) is samples
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        minibatches(samples, 0)


def test_transferred_attention_is_trained_on_without_touching_the_learned(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(8, 2), dim=6, noise_rate=0.4, generator=generator)
    learned = SimplifiedViT(8, 6, init_std=0.5, generator=generator)
    before = learned.scores.detach().clone()
    model = transferred_attention(learned, generator=generator)
    assert torch.equal(model.scores, before)
    list(fit(model, task.sample(4, generator=generator), 4, 3, 0.5))
    assert torch.equal(learned.scores, before)
    assert not torch.equal(model.scores, before)

"""Starts of a downstream model."""

import torch
from torch import Generator

from posattn import Partition, SimplifiedViT, StructuredTask
from posattn.learning.gradient import descend
from posattn.learning.transfer import fresh_start, frozen_attention
from posattn.measure.accuracy import accuracy


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

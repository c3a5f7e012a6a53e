"""Measurements along a training are those of the measures, at the steps that were asked for."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Generator

from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory import tracking
from posattn.theory.accuracy import accuracy
from posattn.theory.descent import Step
from posattn.theory.simplified import SimplifiedViT, encode_positions
from posattn.theory.task import StructuredTask

PARTITION = Partition([0, 1, 2, 0, 1, 2])


def task_and_model(generator: Generator) -> tuple[StructuredTask, SimplifiedViT]:
    task = StructuredTask(PARTITION, dim=5, noise_rate=0.3, generator=generator)
    return task, SimplifiedViT(6, 5, init_std=0.5, generator=generator)


def test_what_is_described_is_what_the_measures_say(generator: Generator) -> None:
    task, model = task_and_model(generator)
    test = task.sample(200, generator=generator)
    row = tracking.describe(model, task, test)
    found = patch_association(model.attention(), PARTITION)
    assert row["accuracy"] == accuracy(model, test)
    assert row["association"] == pytest.approx(found.top_c)
    assert row["mass"] == pytest.approx(found.mass)
    margins = (test.labels * model(test.patches)).detach().double().numpy()
    assert row["loss"] == pytest.approx(np.logaddexp(0.0, -margins).mean(), rel=1e-5)
    model.value.data = -3 * task.feature
    assert tracking.describe(model, task, test)["alignment"] == pytest.approx(-1.0)


def test_encoded_scores_are_measured_with_the_diagonal_that_the_model_reads(generator: Generator) -> None:
    _, model = task_and_model(generator)
    encode_positions(model, 4, init_std=3.0, generator=generator)
    scores = tracking.held_scores(model)
    assert scores.diagonal().tolist() == [model.diagonal] * 6
    assert torch.allclose(scores.softmax(-1), model.attention(), atol=1e-6)


def test_a_training_is_measured_where_it_is_asked_to_be(generator: Generator) -> None:
    task, model = task_and_model(generator)
    before = model.scores.detach().clone()

    def training() -> Iterator[Step]:
        for step in range(1, 6):
            model.scores.data += 1.0
            yield Step(step, step / 10)

    history = tracking.track(
        training(), [0, 2, 5], lambda step: {"loss": step.loss, "first": model.scores[0, 3].item()}
    )
    assert history["step"] == [0, 2, 5]
    assert math.isnan(history["loss"][0])
    assert history["loss"][1:] == [0.2, 0.5]
    assert history["first"] == pytest.approx([before[0, 3].item() + moved for moved in (0, 2, 5)], rel=1e-6)
    # patches 0 and 3 are the first set, 1 and 4 the second
    map_ = tracking.off_diagonal(model, task.partition)
    assert map_[0, 1] == model.scores[0, 3]
    assert map_[2, 0] == model.scores[1, 0]
    assert (map_.diagonal() == 0).all()
    assert tracking.track(training(), [9], lambda step: {}) == {}


@pytest.mark.parametrize(("steps", "count"), [(100, 7), (3, 10), (30, 30)])
def test_even_steps_hold_both_ends(steps: int, count: int) -> None:
    at = tracking.evenly(steps, count)
    assert (at[0], at[-1]) == (0, steps)
    assert at == sorted(set(at))


def test_the_first_full_step_is_the_first() -> None:
    assert tracking.first_full({"step": [0, 5, 9], "exact": [0.5, 1.0, 1.0]}) == 5
    assert tracking.first_full({"step": [0, 5], "exact": [0.5, 0.99]}) is None


def test_association_off_the_diagonal_is_the_share_of_the_largest_others(generator: Generator) -> None:
    partition = Partition([2, 0, 1, 0, 2, 1, 1, 0, 2])
    scores = 1e12 * torch.randn(9, 9, generator=generator)  # 1 more than the largest is lost in float32
    before, labels, found = scores.clone(), partition.labels.tolist(), []
    for i, row in enumerate(scores.tolist()):
        others = sorted((j for j in range(9) if j != i), key=lambda j, row=row: -row[j])
        found.append(sum(labels[j] == labels[i] for j in others[:2]) / 2)
    for given in (scores, scores.double()):
        assert tracking.association_of_others(given, partition) == pytest.approx(np.mean(found))
    assert torch.equal(scores, before)


def test_chance_below_the_diagonal_is_that_of_random_scores(generator: Generator) -> None:
    partition = Partition([0, 1, 1, 2, 2, 2, 2, -1])
    drawn = torch.rand(20_000, 8, 8, generator=generator)
    drawn.diagonal(dim1=1, dim2=2).fill_(2.0)
    random = patch_association(drawn, partition).top_c
    assert torch.is_tensor(random)
    error = random.std().item() / len(random) ** 0.5
    assert tracking.chance_below_diagonal(partition) == pytest.approx(random.mean().item(), abs=4 * error)

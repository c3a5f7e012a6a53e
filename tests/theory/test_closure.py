"""Which models and tasks have a population flow, and that it is theirs."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.utils import parametrize

from posattn.structure.partition import Cover, Partition
from posattn.theory.closure import population_flow
from posattn.theory.descent import descend
from posattn.theory.heads import Heads
from posattn.theory.simplified import SimplifiedViT, encode_positions
from posattn.theory.task import StructuredTask
from posattn.theory.transfer import frozen_attention


def task_on(partition: Cover, **changes: Any) -> StructuredTask:
    return StructuredTask(partition, **({"dim": 3, "noise_rate": 0.3, "noise_std": 0.0} | changes))


def test_the_flow_is_that_of_descent_on_many_samples(generator: Generator) -> None:
    task = task_on(Partition.random(12, 3, generator=generator))
    model = SimplifiedViT(12, 3, 3, 0.1, 1.2, 2.0, init_std=0.0).double()
    task.feature = task.feature.double()
    model.value.data = 0.4 * task.feature
    batch = task.sample(100_000, generator=generator)
    for _ in descend(model, lambda: batch, 10, 0.05):
        pass
    flow = population_flow(model, task, samples=100_000)
    end = list(flow.steps(alpha=0.4, beta=0.0, gamma=0.0, rho=0.0, t_end=0.5))[-1].state
    inside = task.partition.same & ~torch.eye(12, dtype=torch.bool)
    assert (model.value @ task.feature).item() == pytest.approx(end[0], rel=0.02)
    assert model.scores[inside].mean().item() == pytest.approx(end[2], rel=0.1)


class Flipped(StructuredTask):
    def observe(self, labels: Tensor, *, generator: Generator | None = None) -> Tensor:
        return -labels


class Sharper(SimplifiedViT):
    def normalize(self, scores: Tensor) -> Tensor:
        return torch.softmax(2 * scores, -1)


class Mixed(SimplifiedViT):
    def attention(self) -> Tensor:
        return 0.5 * super().attention() + 0.5 / self.num_patches


def with_a_parametrised_value() -> SimplifiedViT:
    model = SimplifiedViT(12, 3)
    parametrize.register_parametrization(model, "value", torch.nn.Tanh())
    return model


EQUAL = Partition.contiguous(12, 3)


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        (SimplifiedViT(12, 3, activation=torch.tanh), task_on(EQUAL), "activation other than"),
        (SimplifiedViT(12, 3, normalize=torch.sigmoid), task_on(EQUAL), "other than the softmax"),
        (SimplifiedViT(12, 3, hold_diagonal=False), task_on(EQUAL), "trained diagonal"),
        (encode_positions(SimplifiedViT(12, 3), 4), task_on(EQUAL), "P Pᵀ"),
        (Sharper(12, 3), task_on(EQUAL), "Sharper, which overrides normalize"),
        (Mixed(12, 3), task_on(EQUAL), "Mixed, which overrides attention"),
        (with_a_parametrised_value(), task_on(EQUAL), "parametrised value"),
        (frozen_attention(SimplifiedViT(12, 3)), task_on(EQUAL), "require no gradient"),
        (Heads([SimplifiedViT(12, 3)]), task_on(EQUAL), "needs a SimplifiedViT, got Heads"),
        (SimplifiedViT(12, 3), Flipped(EQUAL, dim=3, noise_rate=0.1), "Flipped, which overrides observe"),
        (SimplifiedViT(12, 3), task_on(Partition([0] * 4 + [1] * 8)), r"one size, got sizes \[4, 8\]"),
        (SimplifiedViT(12, 3), task_on(Partition([0] * 5 + [1] * 5 + [-1] * 2)), "got 2 in none"),
        (SimplifiedViT(12, 4), task_on(EQUAL), r"\(12, 3\), the model \(12, 4\)"),
    ],
)
def test_what_does_not_close_is_refused_by_name(model: Any, task: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        population_flow(model, task)


def test_overlapping_sets_are_refused() -> None:
    member = torch.zeros(3, 12, dtype=torch.bool)
    member[0, :5], member[1, 4:8], member[2, 8:] = True, True, True
    with pytest.raises(ValueError, match=r"the population flow.*overlap|overlap.*the population flow"):
        population_flow(SimplifiedViT(12, 3), task_on(Cover(member)))

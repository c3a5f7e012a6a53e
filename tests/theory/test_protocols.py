"""Several heads, and tasks and models that are none of ours."""

import copy
import math
from typing import Any

import pytest
import torch
from small_tasks import DIM, PARTITION, D, made
from torch import Generator, Tensor

from posattn.theory.descent import descend
from posattn.theory.heads import Heads
from posattn.theory.in_law import check_in_law
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe, off_diagonal, track
from posattn.theory.transfer import fresh_start, frozen_attention


def test_heads_add_up_and_are_refused_in_law(generator: Generator) -> None:
    heads = [SimplifiedViT(D, DIM, init_std=0.3, generator=generator).double() for _ in range(3)]
    model, patches = Heads(heads), torch.randn(4, D, DIM, generator=generator).double()
    torch.testing.assert_close(model(patches), sum(head(patches) for head in heads))
    assert model.attention().shape == (3, D, D)
    task = StructuredTask(PARTITION, dim=DIM, noise_rate=0.3, feature=torch.ones(DIM).double())
    with pytest.raises(
        TypeError, match="in law needs a SimplifiedViT, got Heads: train on its patches with descend"
    ):
        check_in_law(model, task)
    batch = task.sample(6, generator=generator)
    before = copy.deepcopy(model)
    list(descend(model, lambda: batch, 1, 0.2, value_rate=0.05))
    loss = logistic_loss(before(batch.patches), batch.labels)
    loss.backward()
    for head, start in zip(model.heads, before.heads, strict=True):
        torch.testing.assert_close(head.scores, start.scores - 0.2 * start.scores.grad)
        torch.testing.assert_close(head.value, start.value - 0.05 * start.value.grad)
    frozen = frozen_attention(model)
    assert [p.requires_grad for p in frozen.parameters()] == [False, True] * 3
    assert not torch.equal(fresh_start(model, generator=generator).held_scores(), model.held_scores())
    history = track(descend(model, lambda: batch, 2, 0.1), [0, 2], lambda step: describe(model, task, batch))
    assert len(history["loss"]) == 2
    assert off_diagonal(model, task.partition).shape == (3, D, D)
    with pytest.raises(ValueError, match=r"one \(D, d\), got \[\(4, 3\), \(5, 3\)\]"):
        Heads([SimplifiedViT(4, 3), SimplifiedViT(5, 3)])


def test_a_subclass_with_a_forward_of_its_own_is_refused_in_law(generator: Generator) -> None:
    class Normed(SimplifiedViT):
        def forward(self, patches: Tensor) -> Tensor:
            return super().forward(patches / patches.norm(dim=-1, keepdim=True))

    with pytest.raises(TypeError, match="in law does not hold for Normed, which overrides forward"):
        check_in_law(Normed(D, DIM), made(StructuredTask, generator))
    with pytest.raises(ValueError, match=r"the task has \(D, d\) = \(9, 5\), the model \(8, 5\)"):
        check_in_law(SimplifiedViT(8, DIM), made(StructuredTask, generator))


def test_any_object_with_the_methods_is_a_task_and_a_model(generator: Generator) -> None:
    class Majority:
        """The label is the sign of the sum over the first set."""

        partition = PARTITION

        def sample(self, n: int, *, generator: Generator | None = None) -> Any:
            patches = torch.randn(n, D, 1, generator=generator)
            return type("Pairs", (), {"patches": patches, "labels": self.label(patches)})()

        def label(self, patches: Tensor) -> Tensor:
            return patches[:, PARTITION.labels == 0].sum((1, 2)).sign()

    class Averaging(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.zeros(D, D))

        def attention(self) -> Tensor:
            return self.weights.softmax(-1)

        def forward(self, patches: Tensor) -> Tensor:
            return (self.attention() @ patches).sum((1, 2))

    task, model = Majority(), Averaging()
    test = task.sample(200, generator=generator)
    training = descend(model, lambda: task.sample(64), 60, 3.0)
    history = track(training, [0, 60], lambda step: describe(model, task, test))
    assert history["loss"][1] < history["loss"][0]
    assert history["association"][0] == pytest.approx(1 / 3)
    assert all(math.isnan(cosine) for cosine in history["alignment"])

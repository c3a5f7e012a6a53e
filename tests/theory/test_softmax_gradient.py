"""The closed form of the gradient through the softmax against autograd, and when it is used."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from posattn.structure.partition import Partition
from posattn.theory.descent import Updates, train
from posattn.theory.in_law import backward_in_law, descend_in_law, draw
from posattn.theory.simplified import SimplifiedViT, encode_positions
from posattn.theory.softmax_gradient import SoftmaxGradient, has_closed_form
from posattn.theory.task import StructuredTask


def task_of(labels: list[int], generator: Generator) -> StructuredTask:
    feature = torch.randn(5, generator=generator, dtype=torch.double)
    return StructuredTask(Partition(labels), dim=5, noise_rate=0.4, noise_std=0.6, feature=feature)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([[0], [0, 1, 1], [0, 1, 1, -1, 2, 2, 2], [0] * 6 + [1] * 5]),
    st.sampled_from([None, torch.tanh, nn.PReLU(), lambda z: z.abs()]),
    st.floats(0.01, 3),
    st.floats(-2, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_it_is_autograd(labels, phi, scale, diagonal, held, encoded, seed) -> None:  # type: ignore[no-untyped-def]
    generator = Generator().manual_seed(seed)
    task, D = task_of(labels, generator), len(labels)
    options = {"scale": scale, "diagonal": diagonal, "hold_diagonal": held, "activation": phi}
    model = SimplifiedViT(D, 5, init_std=0.7, generator=generator, **options)  # type: ignore[arg-type]
    if encoded:
        encode_positions(model, 3, init_std=0.5, generator=generator)
    model, other = model.double(), copy.deepcopy(model).double()
    closed = SoftmaxGradient(model)
    model.zero_grad()  # a φ with parameters is shared by the examples
    for _ in range(2):  # gradients are added, memory is used again
        batch = draw(task, 4, generator=generator)
        loss = backward_in_law(model, task, batch, closed)
        assert loss == pytest.approx(backward_in_law(other, task, batch), rel=1e-12)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-10, atol=1e-10)


class Warm(SimplifiedViT):
    def normalize(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores / 3, -1)


class Symmetric(SimplifiedViT):
    def held_scores(self) -> Tensor:
        return (self.scores + self.scores.T) / 2


class Mixed(SimplifiedViT):
    def attention(self) -> Tensor:
        return 0.5 * super().attention() + 0.5 / self.num_patches


class Offset(SimplifiedViT):
    def logits(self, projections: Tensor) -> Tensor:
        return super().logits(projections) + 0.3


class Sine(SimplifiedViT):
    def activation(self, z: Tensor) -> Tensor:
        return z.sin()


@pytest.mark.parametrize("kind", [SimplifiedViT, Sine, Warm, Symmetric, Mixed, Offset, "given", "patched"])
def test_a_run_is_that_of_autograd_whatever_a_model_changes(
    kind: type[SimplifiedViT] | str, generator: Generator
) -> None:
    task = task_of([0, 1, 1, 2, 2, 2, -1], generator)
    options = {"normalize": torch.sigmoid} if kind == "given" else {}
    cls = kind if isinstance(kind, type) else SimplifiedViT
    model = cls(7, 5, scale=1.0, init_std=0.5, generator=generator, **options).double()  # type: ignore[arg-type]
    if kind == "patched":
        model.held_scores = lambda: model.scores * 2  # type: ignore[method-assign]
    other = copy.deepcopy(model)
    if kind == "patched":
        other.held_scores = lambda: other.scores * 2  # type: ignore[method-assign]
    assert has_closed_form(model) == (kind in (SimplifiedViT, Sine))
    first, second = (Generator().manual_seed(8) for _ in range(2))
    losses = [s.loss for s in descend_in_law(model, task, 4, 3, 0.1, generator=first)]
    step = lambda: backward_in_law(other, task, draw(task, 4, generator=second))  # noqa: E731
    assert losses == pytest.approx([s.loss for s in train(other, step, 3, Updates(0.1))], rel=1e-10)
    torch.testing.assert_close(model.scores, other.scores, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.value, other.value, rtol=1e-10, atol=1e-10)


def test_frozen_scores_get_no_gradient(generator: Generator) -> None:
    task = task_of([0, 0, 1, 1], generator)
    model = SimplifiedViT(4, 5, generator=generator).double()
    model.scores.requires_grad_(False)
    backward_in_law(model, task, draw(task, 3, generator=generator), SoftmaxGradient(model))
    assert model.scores.grad is None
    assert model.value.grad is not None

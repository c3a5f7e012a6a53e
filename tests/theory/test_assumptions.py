"""Every assumption that can be changed, against formulas written out in float64; what cannot follow says so by name."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_tasks import DIM, PARTITION, D
from torch import Generator, Tensor

from posattn.structure.partition import Partition
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy, accuracy_in_law
from posattn.theory.heads import Heads
from posattn.theory.in_law import backward_in_law, descend_in_law, draw, unit_residue
from posattn.theory.simplified import SimplifiedViT, encode_positions
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe
from posattn.theory.transfer import fit, fresh_start, frozen_attention, held_attention, transferred_attention


def softplus(z: Tensor) -> Tensor:
    """Neither odd nor a polynomial, by NumPy's formula."""
    return torch.log1p(torch.exp(z)) - 0.4


def cold(scores: Tensor) -> Tensor:
    """A softmax at temperature 1/3."""
    weights = torch.exp(3 * scores)
    return weights / weights.sum(1, keepdim=True)


class Saturating(SimplifiedViT):
    """φ and S changed by a subclass."""

    def activation(self, z: Tensor) -> Tensor:
        return softplus(z)

    def normalize(self, scores: Tensor) -> Tensor:
        return cold(scores)


MODELS: dict[str, tuple[Callable[..., SimplifiedViT], Callable, Callable, bool]] = {
    "even": (lambda **o: SimplifiedViT(D, DIM, activation=lambda z: z**2, **o), np.square, np.exp, True),
    "tanh": (lambda **o: SimplifiedViT(D, DIM, activation=torch.tanh, **o), np.tanh, np.exp, True),
    "temperature": (
        lambda **o: SimplifiedViT(D, DIM, normalize=cold, **o),
        lambda z: z**3 + 0.01 * z,
        lambda a: np.exp(3 * a),
        True,
    ),
    "σ_A trained": (
        lambda **o: SimplifiedViT(D, DIM, hold_diagonal=False, **o),
        lambda z: z**3 + 0.01 * z,
        np.exp,
        False,
    ),
    "subclass": (
        lambda **o: Saturating(D, DIM, **o),
        lambda z: np.logaddexp(0, z) - 0.4,
        lambda a: np.exp(3 * a),
        True,
    ),
}


def built(name: str, generator: Generator) -> SimplifiedViT:
    model = MODELS[name][0](diagonal=0.6, scale=1.3, init_std=0.4, generator=generator).double()
    model.scores.data += 0.2 * torch.eye(D)  # not σ_A, where it is held
    return model


def by_formula(name: str, scores: np.ndarray, value: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """The logits, a query at a time."""
    _, phi, weigh, held = MODELS[name]
    scores = scores.copy()
    if held:
        np.fill_diagonal(scores, 0.6)
    total = np.zeros(len(patches))
    for row in scores:
        weights = weigh(row)
        total += phi(1.3 * (patches @ value) @ (weights / weights.sum()))
    return total


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_formula(generator: Generator, name: str) -> None:
    model, patches = built(name, generator), torch.randn(4, D, DIM, generator=generator).double()
    scores, value = (p.detach().numpy() for p in (model.scores, model.value))
    expected = by_formula(name, scores, value, patches.numpy())
    np.testing.assert_allclose(model(patches).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_descent_in_law_is_descent_on_the_patches_of_its_draw(generator: Generator, name: str) -> None:
    """Differences of the formula in float64 against the gradient in law, at another σ and q than other tests."""
    feature = torch.randn(DIM, generator=generator, dtype=torch.double)
    task = StructuredTask(PARTITION, dim=DIM, noise_rate=0.7, noise_std=0.9, feature=feature)
    model = built(name, generator)
    batch = draw(task, 6, generator=generator)
    w, v = task.feature, model.value.detach()
    direction, _ = unit_residue(v, v @ w, w)
    rest = torch.randn(6, D, DIM, generator=generator, dtype=torch.double)
    for axis in (w, direction):
        rest -= (rest @ axis)[..., None] * axis
    patches = (batch.signal[..., None] * w + 0.9 * (batch.along[..., None] * direction + rest)).numpy()

    def loss(scores: np.ndarray, value: np.ndarray) -> float:
        margins = batch.labels.numpy() * by_formula(name, scores, value, patches)
        return float(np.logaddexp(0, -margins).mean())

    scores, value = model.scores.detach().numpy(), v.numpy()
    assert backward_in_law(model, task, batch) == pytest.approx(loss(scores, value), rel=1e-12)
    assert model.scores.grad is not None
    assert model.value.grad is not None
    for i, j in ((0, 0), (0, 3), (4, 2), (8, 7)):
        step = np.zeros((D, D))
        step[i, j] = 1e-5
        difference = (loss(scores + step, value) - loss(scores - step, value)) / 2e-5
        assert model.scores.grad[i, j].item() == pytest.approx(difference, rel=1e-6, abs=1e-10)
    for axis in (w.numpy(), direction.numpy()):
        difference = (loss(scores, value + 1e-5 * axis) - loss(scores, value - 1e-5 * axis)) / 2e-5
        assert (model.value.grad.numpy() @ axis) == pytest.approx(difference, rel=1e-6, abs=1e-10)


def test_linear_attention_reads_what_its_scores_say(generator: Generator) -> None:
    model = SimplifiedViT(D, DIM, normalize=lambda a: a / D, init_std=0.5, generator=generator).double()
    patches = torch.randn(3, D, DIM, generator=generator).double()
    read = patches @ model.value @ (model.held_scores().T / D) * D
    torch.testing.assert_close(model(patches), (read**3 + 0.01 * read).sum(1))
    task = StructuredTask(PARTITION, dim=DIM, noise_rate=0.3, feature=torch.ones(DIM).double())
    row = describe(model, task, task.sample(20, generator=generator))
    assert math.isnan(row["mass"])  # rows are no distributions
    with pytest.raises(ValueError, match="a solution by hand needs softmax attention"):
        solutions.associated(PARTITION, task, normalize=lambda a: a / D)


def test_accuracy_in_law_is_that_of_the_subclass(generator: Generator) -> None:
    """A φ with a threshold, where the base class would say something else: within four standard errors."""

    class Thresholded(SimplifiedViT):
        def activation(self, z: Tensor) -> Tensor:
            return z**3 - 5.0

    task = StructuredTask(
        Partition.contiguous(12, 3), dim=6, noise_rate=0.2, noise_std=0.8, generator=generator
    )
    model = Thresholded(12, 6, diagonal=1.0, init_std=0.3, generator=generator)
    model.value.data += 0.3 * task.feature
    n = 20_000
    on_patches = accuracy(model, task.sample(n, generator=generator))
    error = math.sqrt(2 * on_patches * (1 - on_patches) / n)
    assert abs(accuracy_in_law(model, task, n, generator=generator) - on_patches) < 4 * error
    base = SimplifiedViT(12, 6, diagonal=1.0)
    base.load_state_dict(model.state_dict())
    assert abs(accuracy_in_law(base, task, n, generator=generator) - on_patches) > 10 * error


def test_transfer_keeps_the_class_and_its_training_is_the_formula(generator: Generator) -> None:
    task = StructuredTask(PARTITION, dim=DIM, noise_rate=0.3, feature=torch.ones(DIM).double())
    learned = built("subclass", generator)
    for start in (fresh_start, transferred_attention, frozen_attention):
        model = start(learned, generator=generator)
        assert type(model) is Saturating
        assert (model.diagonal, model.scale) == (0.6, 1.3)
        assert not model.value.any()
    model = frozen_attention(learned)
    few = task.sample(7, generator=generator)
    value = torch.zeros(DIM, dtype=torch.double, requires_grad=True)
    list(fit(model, few, 7, 3, 0.2))
    held = learned.scores.detach().clone().fill_diagonal_(0.6)
    for _ in range(3):
        z = 1.3 * (few.patches @ value) @ cold(held).T
        loss = torch.log1p(torch.exp(-few.labels * softplus(z).sum(1))).mean()
        (by_value,) = torch.autograd.grad(loss, value)
        value = (value - 0.2 * by_value).detach().requires_grad_()
    torch.testing.assert_close(model.value, value, check_stride=False)
    torch.testing.assert_close(model.attention(), learned.attention())


def test_encodings_are_transferred_as_encodings(generator: Generator) -> None:
    learned = encode_positions(SimplifiedViT(8, 4), 3, init_std=0.5, generator=generator)
    learned.requires_grad_(False)
    for model, same in (
        (transferred_attention(learned), True),
        (fresh_start(learned, generator=generator), False),
    ):
        encodings = model.get_parameter("parametrizations.scores.original")
        assert encodings.shape == (8, 3)
        assert encodings.requires_grad
        assert torch.equal(model.scores, learned.scores) is same
    assert not frozen_attention(learned).get_parameter("parametrizations.scores.original").requires_grad


def test_a_value_that_could_never_leave_zero_is_refused(generator: Generator) -> None:
    for options in ({"activation": torch.square}, {"linear": 0.0}):
        learned = SimplifiedViT(8, 4, generator=generator, **options)  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=r"φ'\(0\) = 0, so that a v at 0 never moves: give a value_std above 0"
        ):
            frozen_attention(learned)
        model = frozen_attention(learned, value_std=0.3, generator=generator)
        assert model.value.std() > 0.05
    heads = Heads([SimplifiedViT(8, 4, linear=0.0), SimplifiedViT(8, 4)])
    with pytest.raises(ValueError, match="never moves"):
        frozen_attention(heads)
    other = torch.nn.Module()  # any model with a value
    other.value = torch.nn.Parameter(torch.ones(3))
    assert not frozen_attention(other).value.any()
    with pytest.raises(TypeError, match="reset_parameters, which Identity does not have"):
        fresh_start(torch.nn.Identity())
    with pytest.raises(TypeError, match="a parameter named value, which Linear does not have"):
        frozen_attention(torch.nn.Linear(3, 1))


def test_weight_decay_leaves_the_held_diagonal_and_moves_a_trained_one(generator: Generator) -> None:
    task = StructuredTask(PARTITION, dim=DIM, noise_rate=0.3, generator=generator)
    for hold in (True, False):
        model = SimplifiedViT(D, DIM, hold_diagonal=hold, generator=generator)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
        list(descend_in_law(model, task, 4, 5, optimizer=optimizer, generator=generator))
        assert (model.scores.diagonal() == 2.0).all() == hold


def test_an_activation_goes_without_the_power_of_another() -> None:
    with pytest.raises(ValueError, match=r"power 5 and linear 0\.01 belong to z\^p \+ ν z"):
        SimplifiedViT(D, DIM, 5, activation=torch.tanh)


# Tasks


# Heads, protocols, and what is denied the structure


@pytest.mark.parametrize("kind", ["uniform", "permuted", "start"])
def test_held_attention_is_denied_the_sets(generator: Generator, kind: str) -> None:
    partition = Partition.random(48, 6, generator=generator)
    task = StructuredTask(partition, dim=8, noise_rate=0.2, generator=generator)
    model = held_attention(task, kind, generator=generator)
    attention = model.attention().detach()
    row = describe(model, task, task.sample(50, generator=generator))
    if kind == "uniform":
        torch.testing.assert_close(attention, torch.full((48, 48), 1 / 48))
    elif kind == "permuted":
        assert (attention.topk(6).values.sum(-1) > 0.98).all()
        assert row["association"] < 0.5
    else:
        torch.testing.assert_close(model.scores - 2 * torch.eye(48), torch.zeros(48, 48), atol=0.01, rtol=0)
    list(fit(model, task.sample(16, generator=generator), 16, 3, 0.01))
    assert torch.equal(model.attention().detach(), attention)
    assert model.value.any()
    double = StructuredTask(partition, dim=8, noise_rate=0.2, feature=task.feature.double())
    assert held_attention(double, kind, value_std=0.1, generator=generator).value.dtype == torch.double
    with pytest.raises(ValueError, match="unknown held attention 'none'; known: permuted, start, uniform"):
        held_attention(task, "none")

"""Gradient descent: the step it says, the diagonal it holds, the error it raises."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from posattn.structure.partition import Partition
from posattn.theory.descent import Step, descend
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import Batch, StructuredTask
from posattn.theory.transfer import fit


def small_case(generator: Generator) -> tuple[SimplifiedViT, StructuredTask]:
    task = StructuredTask(Partition.contiguous(12, 3), dim=6, noise_rate=0.3, generator=generator)
    model = SimplifiedViT.analysis(task, alpha=0.05).double()
    task = StructuredTask(task.partition, dim=6, noise_rate=0.3, feature=task.feature.double())
    return model, task


def gradients(model: SimplifiedViT, batch: Batch) -> list[Tensor]:
    loss = logistic_loss(model(batch.patches), batch.labels)
    return list(torch.autograd.grad(loss, [model.scores, model.value]))


@pytest.mark.parametrize("normalize", [False, True])
def test_one_update_is_the_gradient_step(generator: Generator, normalize: bool) -> None:
    model, task = small_case(generator)
    batch = task.sample(16, generator=generator)
    before = [p.detach().clone() for p in model.parameters()]
    expected_loss = logistic_loss(model(batch.patches), batch.labels).item()
    steps = [g / g.norm() if normalize else g for g in gradients(model, batch)]
    assert list(descend(model, lambda: batch, 1, 0.5, normalize=normalize)) == [Step(1, expected_loss)]
    for parameter, start, gradient in zip(model.parameters(), before, steps, strict=True):
        torch.testing.assert_close(parameter.detach(), start - 0.5 * gradient, rtol=1e-12, atol=1e-14)


def test_full_batch_descent_lowers_the_loss_and_holds_the_diagonal(generator: Generator) -> None:
    model, task = small_case(generator)
    batch = task.sample(64, generator=generator)
    losses = [step.loss for step in descend(model, lambda: batch, 200, 0.005)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert (model.scores.diagonal() == 2.0).all()
    assert model.scores.detach().fill_diagonal_(0.0).abs().max() > 0


def test_fresh_batches_are_drawn_each_step_and_steps_are_counted(generator: Generator) -> None:
    model, task = small_case(generator)
    drawn: list[Batch] = []

    def sample() -> Batch:
        drawn.append(task.sample(4, generator=generator))
        return drawn[-1]

    run = descend(model, sample, 5, 0.01)
    assert not drawn
    assert [step.updates for step in run] == [1, 2, 3, 4, 5]
    assert len({batch.patches.sum().item() for batch in drawn}) == 5


def test_a_run_in_two_parts_is_the_run(generator: Generator) -> None:
    model, task = small_case(generator)
    twin, _ = small_case(Generator().manual_seed(0))
    batch = task.sample(16, generator=generator)
    whole = [step.loss for step in descend(model, lambda: batch, 6, 0.05)]
    parts = [step.loss for steps in (2, 4) for step in descend(twin, lambda: batch, steps, 0.05)]
    assert whole == parts


def test_a_zero_gradient_stays_zero_when_normalized(generator: Generator) -> None:
    model, task = small_case(generator)
    model.value.data.zero_()  # the scores receive no gradient from a model that reads nothing
    scores = model.scores.detach().clone()
    list(descend(model, lambda: task.sample(8, generator=generator), 1, 0.1, normalize=True))
    assert torch.equal(model.scores.detach(), scores)
    assert torch.isclose(model.value.detach().norm(), torch.tensor(0.1, dtype=torch.double))


def test_a_gradient_whose_square_underflows_is_normalized_all_the_same(generator: Generator) -> None:
    model, task = small_case(generator)
    model.value.data *= 17  # a logit of some hundreds, a loss of 1e-200 or so
    batch = task.sample(1, generator=generator)
    batch = batch._replace(labels=model(batch.patches).detach().sign())
    start = model.value.detach().clone()
    (step,) = descend(model, lambda: batch, 1, 0.1, normalize=True)
    assert step.loss < 1e-170
    assert (model.value.detach() - start).norm().item() == pytest.approx(0.1, rel=1e-9)


def test_divergence_names_the_step_and_keeps_the_last_good_parameters(generator: Generator) -> None:
    model, task = small_case(generator)
    batch = task.sample(16, generator=generator)
    run = descend(model, lambda: batch, 50, 1e120)
    with pytest.raises(FloatingPointError, match=r"step \d+, rate 1e\+120"):
        list(run)
    assert all(p.isfinite().all() for p in model.parameters())
    assert logistic_loss(model(batch.patches), batch.labels).isfinite()
    assert all(g.isfinite().all() for g in gradients(model, batch))


@pytest.mark.parametrize(("steps", "rate"), [(0, 0.1), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_bad_arguments_are_refused_at_once(generator: Generator, steps: int, rate: float) -> None:
    model, task = small_case(generator)
    with pytest.raises(ValueError, match=r"steps|rate"):
        descend(model, lambda: task.sample(2), steps, rate)


def test_a_value_rate_of_zero_holds_the_value_and_a_negative_one_is_refused(generator: Generator) -> None:
    model, task = small_case(generator)
    batch = task.sample(8, generator=generator)
    value, scores = (p.detach().clone() for p in (model.value, model.scores))
    for run in (
        descend(model, lambda: batch, 1, 0.1, value_rate=0.0),
        fit(model, batch, 8, 1, 0.1, value_rate=0.0),
        descend_in_law(model, task, 8, 1, 0.1, value_rate=0.0, generator=generator),
    ):
        list(run)
        assert torch.equal(model.value, value)
        assert not torch.equal(model.scores, scores)
        scores = model.scores.detach().clone()
    for train in (descend, fit, descend_in_law):
        data = {descend: (lambda: batch, 1), fit: (batch, 8, 1), descend_in_law: (task, 8, 1)}[train]
        with pytest.raises(ValueError, match=r"value_rate must be a finite number of at least 0, got -0\.5"):
            train(model, *data, 0.1, value_rate=-0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ],
)
def test_optimizers_of_pytorch_take_their_own_steps(generator: Generator, make: Callable) -> None:
    """The run in two parts with one optimizer is the loop written out; weight decay leaves σ_A where it is held."""
    model, task = small_case(generator)
    expected = copy.deepcopy(model)
    batches = [task.sample(6, generator=generator) for _ in range(5)]
    optimizer, other = make(model.parameters()), make(expected.parameters())
    stream = iter(batches)
    for steps in (2, 3):
        list(descend(model, stream.__next__, steps, optimizer=optimizer))
    for batch in batches:
        other.zero_grad()
        logistic_loss(expected(batch.patches), batch.labels).backward()
        other.step()
    torch.testing.assert_close(model.value, expected.value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model.attention(), expected.attention(), rtol=1e-12, atol=1e-14)


def test_decaying_rates_start_again_with_each_run_of_an_optimizer(generator: Generator) -> None:
    """Also after a run that ends early: the rates of the first run are not the start of the second."""
    model, task = small_case(generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def rates() -> list[float]:
        return [group["lr"] for group in optimizer.param_groups]

    sample = partial(task.sample, 4, generator=generator)
    for taken in (4, 4, 2):
        run = descend(model, sample, 4, optimizer=optimizer, decay=True)
        found = [rates()[0] for _, _ in zip(range(taken), run, strict=False)]
        run.close()  # type: ignore[attr-defined]
        assert found == pytest.approx([1e-3 * left / 4 for left in (4, 3, 2, 1)][:taken])
        assert rates() == [1e-3]
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.25))  # type: ignore[arg-type]
    list(descend(model, sample, 4, optimizer=optimizer, decay=True))
    assert rates() == [0.25]


def test_an_optimizer_that_cannot_be_meant_is_refused(generator: Generator) -> None:
    model, task = small_case(generator)
    twin, _ = small_case(generator)
    sample = partial(task.sample, 4, generator=generator)
    with pytest.raises(ValueError, match="2 parameters of the optimizer are not the model's"):
        descend(model, sample, 1, optimizer=torch.optim.Adam(twin.parameters()))
    with pytest.raises(ValueError, match=r"either a rate or an optimizer, got rate=0.1 and optimizer=Adam$"):
        descend(model, sample, 1, 0.1, optimizer=torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="either a rate or an optimizer"):
        descend(model, sample, 1)
    with pytest.raises(TypeError, match="must step without a closure, as Adam does, got LBFGS"):
        descend(model, sample, 1, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ValueError, match="value_rate goes with a rate"):
        descend(model, sample, 1, value_rate=0.1, optimizer=torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match=r"value_rate 0\.1: Linear has no parameter named value"):
        descend(torch.nn.Linear(6, 1), sample, 1, 0.1, value_rate=0.1)

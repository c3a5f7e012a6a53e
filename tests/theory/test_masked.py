"""Masked reconstruction: what is hidden, its error written out, and the sets that it finds without labels."""

import pytest
import torch
from torch import Generator

from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory.descent import descend
from posattn.theory.masked import MaskedBatch, masked, masked_error, reconstructor
from posattn.theory.task import StructuredTask

PARTITION = Partition([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


def test_a_patch_is_hidden_or_shown(generator: Generator) -> None:
    task = StructuredTask(PARTITION, dim=4, noise_rate=0.3, generator=generator)
    shown, hidden = masked(task, 2000, 0.3, generator=generator)
    here = ~hidden.isnan()
    assert (here.all(-1) == here.any(-1)).all()
    assert (shown[here] == 0).all()
    assert (shown[~here] != 0).all()
    assert abs(here.float().mean() - 0.3) < 5 * (0.21 / 24000) ** 0.5
    with pytest.raises(ValueError, match=r"mask_rate must be a probability in \[0, 1\], got 1\.2"):
        masked(task, 1, 1.2)


def test_the_error_is_that_of_hidden_patches(generator: Generator) -> None:
    truth, outputs = torch.randn(2, 3, 4, 5, generator=generator).double()
    hidden = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    errors = [
        sum((outputs[n, j, k] - truth[n, j, k]).item() ** 2 for k in range(5))
        for n, j in hidden.nonzero().tolist()
    ]
    labels = truth.masked_fill(~hidden[..., None], torch.nan)
    assert masked_error(outputs, labels).item() == pytest.approx(sum(errors) / 3)
    outputs.requires_grad_()
    masked_error(outputs, labels).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert masked_error(outputs, torch.full_like(truth, torch.nan)).item() == 0


def test_a_step_is_that_of_the_formula_in_double_precision(generator: Generator) -> None:
    """The gradient of 1/|hidden| Σ_hidden |X_j - Σ_i S_ji X̃_i V|², written out, at unequal sets."""
    feature = torch.randn(3, generator=generator, dtype=torch.double)
    task = StructuredTask(Partition([0, 1, 1, 1, -1]), dim=3, noise_rate=0.4, feature=feature)
    student = reconstructor(task, generator=generator)
    batch = masked(task, 6, 0.4, generator=generator)
    scores, value = student.scores.detach().clone(), student.value.detach().clone()
    (step,) = descend(student, lambda: batch, 1, 0.2, value_rate=0.7, loss=masked_error)
    S, X, Y = scores.softmax(-1), batch.patches, batch.labels
    by_map, by_value, error = torch.zeros_like(scores), torch.zeros_like(value), 0.0
    hidden = [(n, j) for n in range(6) for j in range(5) if not Y[n, j].isnan().any()]
    for n, j in hidden:
        apart = S[j] @ X[n] @ value - Y[n, j]
        error += float(apart @ apart) / len(hidden)
        by_map[j] += 2 / len(hidden) * X[n] @ value @ apart
        by_value += 2 / len(hidden) * torch.outer(S[j] @ X[n], apart)
    by_scores = S * (by_map - (S * by_map).sum(-1, keepdim=True))
    assert step.loss == pytest.approx(error, rel=1e-12)
    torch.testing.assert_close(student.scores.detach(), scores - 0.2 * by_scores, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(student.value.detach(), value - 0.7 * by_value, rtol=1e-10, atol=1e-12)


def test_hidden_patches_are_read_off_their_own_set(generator: Generator) -> None:
    """From the error of zero, E|X_j|² = 1/L + (1 - 1/L) q + σ²(d - 1), down."""
    task = StructuredTask(PARTITION, dim=4, noise_rate=0.1, noise_std=0.3, generator=generator)
    student = reconstructor(task, generator=generator)

    def sample() -> MaskedBatch:
        return masked(task, 128, 0.3, generator=generator)

    test = masked(task, 4000, 0.3, generator=generator)
    start = masked_error(student(test.patches), test.labels).item()
    assert start == pytest.approx(1 / 3 + 2 / 3 * 0.1 + 0.09 * 3, rel=0.05)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    list(descend(student, sample, 150, optimizer=optimizer, loss=masked_error))
    assert masked_error(student(test.patches), test.labels).item() < 0.75 * start
    others = student.scores.detach().clone().fill_diagonal_(1e3)
    assert patch_association(others, PARTITION).exact == 1
    assert (student.attention().diagonal() < 1 / 12).all()  # a hidden patch cannot be read off itself


def test_what_can_be_explained_of_a_hidden_patch(generator: Generator) -> None:
    """1 % from the sum of its set, 3 % from all patches: the numbers that the recipe states, at its defaults."""
    D, C, d, q, n = 64, 4, 16, 0.4, 20_000
    task = StructuredTask(Partition.contiguous(D, C), dim=d, noise_rate=q, generator=generator)
    u = task.sample_signal(n, generator=generator).signal.double().reshape(n, D // C, C)
    hidden = torch.rand(u.shape, generator=generator) < 0.3
    shown = u.masked_fill(hidden, 0.0)
    variance = u[hidden].square().mean() + (d - 1) / d

    def explained(prediction: torch.Tensor) -> float:
        return ((u[hidden].square() - (u - prediction)[hidden].square()).mean() / variance).item()

    sums = (shown.sum(-1, keepdim=True) - shown).expand_as(u)
    linear = sums * (u * sums)[hidden].mean() / sums[hidden].square().mean()
    odds = [
        (hidden + (u == y) * 2 / q * ~hidden).prod(-1, keepdim=True) for y in (1, -1)
    ]  # that y is in the set
    best = ((odds[0] - odds[1]) / (odds[0] + odds[1]).sum(1, keepdim=True)).expand_as(u)
    assert explained(linear) == pytest.approx(0.0115, abs=0.0015)
    assert explained(best) == pytest.approx(0.0328, abs=0.003)

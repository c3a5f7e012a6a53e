"""Accuracy in law against accuracy on patches."""

import math

import pytest
import torch
from torch import Generator

from posattn.structure.partition import Partition
from posattn.theory.accuracy import accuracy, accuracy_in_law, correct
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import StructuredTask


def test_accuracy_in_law_is_that_of_patches(generator: Generator) -> None:
    """Two samples of 20,000: their difference lies within four standard errors, for noise that matters."""
    task = StructuredTask(
        Partition.contiguous(12, 3), dim=8, noise_rate=0.4, noise_std=1.0, generator=generator
    )
    model = SimplifiedViT(12, 8, diagonal=1.0, init_std=0.5, generator=generator)
    model.value.data += task.feature
    n = 20_000
    built = accuracy(model, task.sample(n, generator=generator))
    in_law = accuracy_in_law(model, task, n, generator=generator)
    assert 0.55 < built < 0.95
    assert abs(built - in_law) < 4 * math.sqrt(2 * built * (1 - built) / n)


@pytest.mark.parametrize("shape", [(4, 1), (4, 1, 1), (3,)])
def test_logits_that_are_not_one_row_per_label_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must be \(n,\) or \(n, K\) for labels \(n,\), got"):
        correct(torch.ones(shape), torch.ones(4))


def test_labels_of_one_logit_are_signs() -> None:
    logits, labels = torch.ones(2), torch.tensor([0, 1])
    for score in (correct, logistic_loss):
        with pytest.raises(ValueError, match=r"needs labels of ±1, got \[0, 1\]"):
            score(logits, labels)


def test_labels_of_several_logits_are_their_numbers() -> None:
    for labels in ([1, 3], [-1, 2]):  # numbered from 1; as signs
        with pytest.raises(
            ValueError, match=rf"3 logits per sample need labels in 0\.\.2, got \[{labels[0]}, "
        ):
            correct(torch.ones(2, 3), torch.tensor(labels))


def test_what_is_not_a_number_is_wrong() -> None:
    logits = torch.tensor([[torch.nan, torch.nan], [1.0, torch.nan], [2.0, 1.0]])
    assert correct(logits, torch.zeros(3, dtype=torch.long)) == pytest.approx(1 / 3)
    assert correct(logits[:, 0], torch.ones(3)) == pytest.approx(2 / 3)


def test_chunks_and_the_sign_of_the_value(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posattn.theory.accuracy.CHUNK", 36)  # three samples of D = 12 at once
    task = StructuredTask(Partition.contiguous(12, 3), dim=8, noise_rate=0.0, generator=generator)
    model = SimplifiedViT(12, 8, init_std=0.0)
    assert accuracy_in_law(model, task, 10, generator=generator) == 0.0
    model.value.data = task.feature.clone()
    assert accuracy_in_law(model, task, 10, generator=generator) == 1.0
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        accuracy_in_law(model, task, 0)


def test_the_numbers_of_the_classes_play_no_part() -> None:
    """Several largest logits are wrong, as a logit of 0 is: they counted as the first of their classes."""
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, -1.0], [2.0, 1.0, 3.0], [math.inf, math.inf, 0.0]])
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        labels = torch.tensor([0, 1, 2, 0])
        renamed = torch.tensor(order).argsort()[labels]
        assert correct(logits[:, order], renamed) == 0.25

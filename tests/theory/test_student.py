"""The student of a teacher: it can be the teacher, and its losses are their definitions."""

import math

import pytest
import torch
from torch import Generator

from posattn.theory.student import PositionStudent
from posattn.theory.teachers import Teacher, group_sparse, token_selection


def taught(teacher: Teacher, generator: Generator) -> PositionStudent:
    """The student that holds the teacher's parameters."""
    student = PositionStudent.for_teacher(teacher, generator=generator)
    student.scores.data = teacher.attention.clamp_min(1e-30).log()
    student.value.data = teacher.value.clone()
    return student


def test_the_teacher_is_among_the_students(generator: Generator) -> None:
    teacher = token_selection(10, 3, dim=4, outputs=2, generator=generator)
    student, batch = taught(teacher, generator), teacher.sample(20, generator=generator)
    torch.testing.assert_close(student.attention(), teacher.attention)
    assert student.loss(student(batch.patches), batch.labels).item() < 1e-12
    untrained = PositionStudent.for_teacher(teacher, generator=generator)
    loss = untrained.loss(untrained(batch.patches), batch.labels).item()
    assert loss == pytest.approx(batch.labels.square().mean().item(), rel=0.05)


def test_a_classifier_has_the_logistic_loss_of_its_mean_over_queries(generator: Generator) -> None:
    teacher = group_sparse(6, dim=4, generator=generator)
    student, batch = taught(teacher, generator), teacher.sample(20, generator=generator)
    student.scores.data += torch.randn(6, 6, generator=generator)
    logits = [
        sum((student.attention()[i] @ x @ student.value).item() for i in range(6)) / 6 for x in batch.patches
    ]
    losses = [
        math.log1p(math.exp(-y * f)) for y, f in zip(batch.labels.flatten().tolist(), logits, strict=True)
    ]
    assert student.loss(student(batch.patches), batch.labels).item() == pytest.approx(
        sum(losses) / 20, rel=1e-5
    )


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="unknown head 'tanh'; known: linear, relu, sign"):
        PositionStudent(2, 2, 2, 1, "tanh")
    with pytest.raises(ValueError, match="num_queries must be at least 1, got 0"):
        PositionStudent(0, 2, 2, 1, "relu")
    for head in ("sign", "linear"):
        with pytest.raises(ValueError, match=r"one shape, got \(2, 1, 1\) and \(2,\)"):
            PositionStudent(1, 2, 2, 1, head).loss(torch.ones(2, 1, 1), torch.ones(2))

"""The written-down solutions: which generalise, which associate."""

import pytest
import torch
from torch import Generator

from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory import solutions
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

D, C, Q = 1024, 16, 0.3  # q·D = 307 > C² = 256


@pytest.fixture(scope="module")
def task() -> StructuredTask:
    generator = Generator().manual_seed(0)
    return StructuredTask(
        Partition.random(D, C, generator=generator), dim=4, noise_rate=Q, generator=generator
    )


def accuracy(model: SimplifiedViT, task: StructuredTask) -> float:
    batch = task.sample(500, generator=Generator().manual_seed(1))
    with torch.no_grad():
        return (model(batch.patches).sign() == batch.labels).double().mean().item()


def test_the_associated_solution_generalises_and_associates(task: StructuredTask) -> None:
    model = solutions.associated(task.partition, task)
    association = patch_association(model.scores, task.partition)
    assert accuracy(model, task) == 1
    assert association.mass > 0.98
    # σ_A is below what the others of the set score, and above all the rest.
    assert association.top_c == association.exact == 1


def test_a_permuted_solution_generalises_without_association(task: StructuredTask) -> None:
    sets = task.partition.num_sets
    model = solutions.permuted(task.partition, task, torch.arange(sets).roll(1))
    association = patch_association(model.scores, task.partition)
    assert accuracy(model, task) == 1
    assert association.top_c == association.exact == 0
    assert association.mass < 0.02


def test_one_delegate_a_set_generalises_with_one_row_in_c(task: StructuredTask) -> None:
    model = solutions.delegates(task.partition, task)
    association = patch_association(model.scores, task.partition)
    assert accuracy(model, task) > 0.99
    assert association.exact == pytest.approx(1 / C)
    assert association.mass < 1 / C + 2 * C / D


@pytest.mark.parametrize("name", ["even", "lonely"])
def test_what_does_not_generalise(task: StructuredTask, name: str) -> None:
    """Everybody even, or all but the delegates on themselves: a sum that the noise decides."""
    if name == "even":
        model = solutions.uniform(task.partition, task)
    else:
        model = solutions.delegates(task.partition, task, others="themselves")
    assert 0.5 < accuracy(model, task) < 0.85


@pytest.mark.parametrize("diagonal", [-3.0, 0.0, 4.0])
def test_each_query_reads_what_it_is_told(
    task: StructuredTask, generator: Generator, diagonal: float
) -> None:
    reads = torch.rand(D, D, generator=generator) < 0.3
    reads[0] = False
    reads[0, 0] = True
    attention = solutions.reading(reads, task, diagonal=diagonal).attention().detach()
    assert ((attention * reads).sum(-1) > 0.98).all()
    off = reads & ~torch.eye(D, dtype=torch.bool)
    row = attention[1][off[1]]
    torch.testing.assert_close(row, row[0].expand_as(row))


def test_bad_solutions(task: StructuredTask) -> None:
    partition = task.partition
    with pytest.raises(ValueError, match="permutation must order"):
        solutions.permuted(partition, task, torch.zeros(partition.num_sets, dtype=torch.long))
    with pytest.raises(ValueError, match="256 patches, the task 1024"):
        solutions.associated(Partition.contiguous(256, C), task)
    with pytest.raises(ValueError, match=r"nobody.*everywhere, themselves"):
        solutions.delegates(partition, task, others="nobody")

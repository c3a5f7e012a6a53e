"""Simplified ViTs written down rather than trained, which generalise with the structure and without it.

Source: arXiv 2210.09221, the remark that solutions without patch association generalise as well.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from posattn import checks
from posattn.structure.partition import Partition
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

SHARPNESS = math.log(100.0)  # each row puts 100 times more on what it reads than on all the rest


def associated(partition: Partition, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """The solution with the structure: query i reads its own set.

    ``options`` are those of SimplifiedViT. ValueError where the partition and the task differ in D.
    """
    return permuted(partition, task, torch.arange(partition.num_sets), **options)


def permuted(
    partition: Partition, task: StructuredTask, permutation: Int[Tensor, " L"], **options: Any
) -> SimplifiedViT:
    """A solution without the structure: queries of set ℓ read set π(ℓ).

    Args:
        partition: the sets.
        task: its feature becomes v.
        permutation: (L,) π; with no fixed point the patch association is 0.
        options: those of SimplifiedViT.

    Raises:
        ValueError: π is not a permutation of 0..L-1, or the partition and the task differ in D.
    """
    permutation = torch.as_tensor(permutation)
    if permutation.sort().values.tolist() != list(range(partition.num_sets)):
        raise ValueError(f"permutation must order 0..{partition.num_sets - 1}, got {permutation.tolist()}")
    reads = permutation[partition.labels][:, None] == partition.labels[None, :]
    return reading(reads, task, **options)


def delegates(
    partition: Partition, task: StructuredTask, *, others: str = "everywhere", **options: Any
) -> SimplifiedViT:
    """One delegate a set, its first patch, reads the set.

    Args:
        partition: the sets.
        task: its feature becomes v.
        others: what all other queries read: ``everywhere`` evenly, which generalises with one row in C that
            associates, or ``themselves``, which does not: the sign noise of D patches outweighs L means.
        options: those of SimplifiedViT.

    Raises:
        ValueError: ``others`` is unknown, or the partition and the task differ in D.
    """
    checks.known("reading of the others", others, ("everywhere", "themselves"))
    D = partition.num_patches
    rest = torch.ones(D, D) if others == "everywhere" else torch.eye(D)
    delegate = torch.zeros(D, 1).index_fill_(0, partition.sets[:, 0], 1.0)
    return reading(torch.where(delegate.bool(), partition.same, rest.bool()), task, **options)


def even(partition: Partition, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """Everybody reads everywhere evenly: the label is the sign of the sum, which noise decides if q·D > C².

    ``options`` are those of SimplifiedViT. ValueError where the partition and the task differ in D.
    """
    D = partition.num_patches
    return reading(torch.ones(D, D, dtype=torch.bool), task, **options)


def reading(reads: Bool[Tensor, "D D"], task: StructuredTask, **options: Any) -> SimplifiedViT:
    """A simplified ViT with v = w* whose query i reads the patches that row i of ``reads`` marks.

    What is read scores alike, σ_A where the query reads itself, and outweighs all the rest together.
    """
    if reads.shape[0] != task.partition.num_patches:
        raise ValueError(f"the partition has {reads.shape[0]} patches, the task {task.partition.num_patches}")
    model = SimplifiedViT(reads.shape[0], task.dim, **options)
    gap = math.log(reads.shape[0]) + SHARPNESS
    own = reads.diagonal()[:, None]
    high = torch.where(own, model.diagonal, model.diagonal + gap)
    scores = torch.where(reads, high, high - gap).to(task.feature)
    model.scores.data = scores.fill_diagonal_(model.diagonal)
    model.value.data = task.feature.clone()
    return model

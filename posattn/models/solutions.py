"""Simplified ViTs written down rather than trained, which generalise with the structure and without it.

Source: arXiv 2210.09221, the remark that solutions without patch association generalise as well.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from posattn.data.structured import Partition, StructuredTask
from posattn.models.simplified import SimplifiedViT

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


def reading(reads: Bool[Tensor, "D D"], task: StructuredTask, **options: Any) -> SimplifiedViT:
    """A simplified ViT with v = w* whose query i reads the patches that row i of ``reads`` marks.

    Off the diagonal, what is read scores alike and outweighs σ_A and all the rest of the row together.
    """
    if reads.shape[0] != task.partition.num_patches:
        raise ValueError(f"the partition has {reads.shape[0]} patches, the task {task.partition.num_patches}")
    model = SimplifiedViT(reads.shape[0], task.dim, **options)
    high = max(model.diagonal, 0.0) + math.log(reads.shape[0]) + SHARPNESS
    scores = torch.where(reads, high, 0.0).to(task.feature)
    model.scores.data = scores.fill_diagonal_(model.diagonal)
    model.value.data = task.feature.clone()
    return model

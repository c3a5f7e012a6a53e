"""Hand-written simplified ViTs that generalise, with the structure and without it.

Source: arXiv 2210.09221, the remark that solutions without patch association generalise as well.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from posattn import checks
from posattn.structure.partition import Cover
from posattn.theory.requirements import one_feature
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

# each row puts 100 times more attention on the patches it reads than on all others
SHARPNESS = math.log(100.0)
READ = 0.98  # the resulting share of a row


def associated(partition: Cover, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """The solution with the structure: query i reads its own set.

    ``options`` and errors are those of ``permuted``.
    """
    return permuted(partition, task, torch.arange(partition.num_sets), **options)


def permuted(
    partition: Cover, task: StructuredTask, permutation: Int[Tensor, " L"], **options: Any
) -> SimplifiedViT:
    """A solution without the structure: queries of set ℓ read set π(ℓ), patches in no set attend uniformly.

    Between sets of different sizes accuracy falls: a set is read by as many queries as the set that π maps to it has.

    Args:
        partition: the sets.
        task: its feature becomes v.
        permutation: (L,) π; with no fixed point the patch association is 0.
        options: those of SimplifiedViT.

    Raises:
        ValueError: π is not a permutation of 0..L-1, the sets overlap, or as in ``reading``.
    """
    permutation = torch.as_tensor(permutation)
    ordered = list(range(partition.num_sets))
    if permutation.is_floating_point() or permutation.sort().values.tolist() != ordered:
        raise ValueError(f"permutation must order 0..{partition.num_sets - 1}, got {permutation.tolist()}")
    labels = partition.as_partition("a solution by sets").labels
    reads = partition.membership[permutation[labels.clamp(min=0)]]
    return reading(reads | (labels < 0)[:, None], task, **options)


def delegates(
    partition: Cover, task: StructuredTask, *, others: str = "everywhere", **options: Any
) -> SimplifiedViT:
    """One delegate per set, its first patch, reads the set.

    Args:
        partition: the sets.
        task: its feature becomes v.
        others: the attention of all other queries: ``everywhere`` (uniform), which generalises with one row in C
            associated, or ``themselves``, which does not: the sign noise of D patches outweighs L means.
        options: those of SimplifiedViT.

    Raises:
        ValueError: ``others`` is unknown, the sets overlap, or as in ``reading``.
    """
    checks.known("reading of the others", others, ("everywhere", "themselves"))
    partition = partition.as_partition("a solution by delegates")
    D = partition.num_patches
    rest = torch.ones(D, D) if others == "everywhere" else torch.eye(D)
    delegate = torch.zeros(D, 1).index_fill_(0, partition.membership.int().argmax(1), 1.0)
    return reading(torch.where(delegate.bool(), partition.same, rest.bool()), task, **options)


def uniform(partition: Cover, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """Uniform attention: the prediction is the sign of the sum over all patches, which noise decides if q·D > C².

    ``options`` are those of SimplifiedViT; errors as in ``reading``.
    """
    D = partition.num_patches
    return reading(torch.ones(D, D, dtype=torch.bool), task, **options)


def reading(reads: Bool[Tensor, "D D"], task: StructuredTask, **options: Any) -> SimplifiedViT:
    """A simplified ViT with v = w* whose query i reads the patches that row i of ``reads`` marks.

    The patches read get equal scores, σ_A where the query reads itself, and outweigh all others together.

    Raises:
        ValueError: the task has another D or several features, or ``normalize`` is not close to a softmax, so that
            rows do not attend as intended.
    """
    if reads.shape[0] != task.partition.num_patches:
        raise ValueError(f"the partition has {reads.shape[0]} patches, the task {task.partition.num_patches}")
    one_feature("a solution by hand", task)
    model = SimplifiedViT(reads.shape[0], task.dim, **options)
    gap = math.log(reads.shape[0]) + SHARPNESS
    own = reads.diagonal()[:, None]
    high = torch.where(own, model.diagonal, model.diagonal + gap)
    scores = torch.where(reads, high, high - gap).to(task.feature)
    model.scores.data = scores.fill_diagonal_(model.diagonal)
    model.value.data = task.feature.clone()
    attention = model.attention().detach()
    least = ((attention * reads).sum(-1) / attention.abs().sum(-1)).min().item()
    if not least > READ:
        raise ValueError(
            f"a solution by hand needs softmax attention: a row puts {least:.3g} on what it should read"
        )
    return model

"""Structured teachers: labels by brute-force definition, true attention, bad input."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator

from posattn.structure.partition import Partition
from posattn.theory.teachers import (
    Teacher,
    circulant_graph,
    convolution,
    graph_convolution,
    group_sparse,
    token_selection,
)

MAKE: dict[str, Callable[[Generator], Teacher]] = {
    "convolution": lambda g: convolution(Partition.random(12, 3, generator=g), dim=5, outputs=2, generator=g),
    "graph": lambda g: graph_convolution(circulant_graph(12, 4, generator=g), dim=5, outputs=2, generator=g),
    "selection": lambda g: token_selection(12, 3, dim=5, outputs=2, generator=g),
    "group": lambda g: group_sparse(12, dim=5, generator=g),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_true_attention_is_a_distribution_a_row_and_samples_carry_the_labels(
    name: str, generator: Generator
) -> None:
    teacher = MAKE[name](generator)
    torch.testing.assert_close(teacher.attention.sum(1), torch.ones(len(teacher.attention)))
    assert (teacher.attention >= 0).all()
    torch.testing.assert_close(teacher.value.norm(dim=0), torch.ones(teacher.value.shape[1]))
    patches, labels = teacher.sample(7, generator=generator)
    assert patches.shape == (7, 12, 5)
    assert torch.equal(teacher.label(patches), labels)


def test_the_convolution_pools_its_outputs_over_the_sets(generator: Generator) -> None:
    partition = Partition.random(12, 3, generator=generator)
    teacher = convolution(partition, dim=5, outputs=2, generator=generator)
    patches, labels = teacher.sample(4, generator=generator)
    for n in range(4):
        filtered = torch.stack([teacher.value.T @ patch for patch in patches[n]])
        pooled = torch.stack([filtered[partition.labels == ell].mean(0) for ell in range(4)])
        torch.testing.assert_close(labels[n], pooled.clamp_min(0))


def test_the_graph_convolution_averages_a_node_and_its_neighbours(generator: Generator) -> None:
    graph = circulant_graph(12, 4, generator=generator)
    assert torch.equal(graph, graph.T)
    assert (graph.sum(1) == 4).all()
    teacher = graph_convolution(graph, dim=5, outputs=2, generator=generator)
    patches, labels = teacher.sample(4, generator=generator)
    for i in range(12):
        near = [i, *graph[i].nonzero().flatten().tolist()]
        torch.testing.assert_close(labels[:, i], (patches[:, near].mean(1) @ teacher.value).clamp_min(0))
    normalised = (graph + torch.eye(12)) / 5**0.5 / 5**0.5  # D^-1/2 (adjacency + I) D^-1/2
    torch.testing.assert_close(teacher.attention, normalised)
    for dtype in (torch.double, torch.long, torch.bool):
        assert torch.equal(graph_convolution(graph.to(dtype), dim=5).attention, teacher.attention)


def test_a_selecting_query_reads_its_own_tokens_evenly(generator: Generator) -> None:
    teacher = token_selection(12, 3, dim=5, outputs=2, generator=generator)
    assert ((teacher.attention > 0).sum(1) == 3).all()
    assert teacher.attention[teacher.attention > 0].unique().tolist() == pytest.approx([1 / 3])
    patches, labels = teacher.sample(4, generator=generator)
    for i, row in enumerate(teacher.attention):
        torch.testing.assert_close(labels[:, i], patches[:, row > 0].mean(1) @ teacher.value)


def test_the_class_is_the_side_of_one_patch(generator: Generator) -> None:
    teacher = group_sparse(12, dim=5, relevant=7, generator=generator)
    patches, labels = teacher.sample(50, generator=generator)
    assert torch.equal(labels.flatten(), (patches[:, 7] @ teacher.value).sign().flatten())
    patches[:, :7] = 0.0
    assert torch.equal(teacher.label(patches), labels)
    assert {
        group_sparse(12, dim=5, generator=generator).attention[0].argmax().item() for _ in range(99)
    } == set(range(12))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: group_sparse(4, dim=2, relevant=4), "relevant must be below num_patches = 4, got 4"),
        (lambda: group_sparse(0, dim=2), "num_patches must be at least 1, got 0"),
        (lambda: token_selection(4, 5, dim=2), "selected must be at most num_patches = 4, got 5"),
        (lambda: token_selection(4, 2, dim=0), "dim must be at least 1, got 0"),
        (lambda: circulant_graph(6, 3), "degree must be even and below num_patches = 6, got 3"),
        (lambda: circulant_graph(6, 6), "got 6"),
        (lambda: graph_convolution(torch.eye(3), dim=2), "0 on the diagonal"),
        (
            lambda: graph_convolution(torch.zeros(0, 0), dim=2),
            r"symmetric \(D, D\) matrix, got shape \(0, 0\)",
        ),
        (lambda: graph_convolution(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), dim=2), "symmetric"),
        (lambda: graph_convolution(2 - 2 * torch.eye(2), dim=2), "must hold 0 and 1"),
        (
            lambda: graph_convolution(torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 0, 0]]), dim=2),
            r"regular, got degrees \[1.0, 2.0\]",
        ),
        (lambda: group_sparse(4, dim=2).label(torch.zeros(1, 3, 2)), r"must be \(n, 4, 2\), got \(1, 3, 2\)"),
        (lambda: group_sparse(4, dim=2).sample(0), "n must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

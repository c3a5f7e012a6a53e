"""Partitions and covers against their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from posattn.structure.partition import Cover, Partition

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 100))
def test_partitions_hold_each_patch_once(sizes: tuple[int, int], seed: int) -> None:
    sets, size = sizes
    generator = Generator().manual_seed(seed)
    for partition in (
        Partition.contiguous(sets * size, size),
        Partition.random(sets * size, size, generator=generator),
        Partition.tiles((sets, 2 * size), (1, size)),
    ):
        assert partition.num_patches == partition.num_sets * partition.set_size
        assert partition.sets.flatten().sort().values.tolist() == list(range(partition.num_patches))
        for label, members in enumerate(partition.sets):
            assert (partition.labels[members] == label).all()
            assert members.tolist() == sorted(members.tolist())
        assert partition.same.sum() == partition.num_patches * partition.set_size
        assert (partition.same == partition.same.T).all()


def test_contiguous_and_tiles_lie_where_they_say() -> None:
    assert Partition.contiguous(6, 2).labels.tolist() == [0, 0, 1, 1, 2, 2]
    grid = Partition.tiles((4, 6), (2, 3)).labels.reshape(4, 6)
    expected = [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    assert grid.tolist() == expected


def test_random_partitions_are_uniform() -> None:
    """Patches 0 and 1 share one of the sets of 2 of 4 patches in a third of the draws."""
    generator = Generator().manual_seed(0)
    shared = sum(bool(Partition.random(4, 2, generator=generator).same[0, 1]) for _ in range(3000))
    assert abs(shared / 3000 - 1 / 3) < 4 * math.sqrt(2 / 9 / 3000)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "set 1 is empty"),
        ([0, 1, 10**15, -1], "set 2 is empty"),
        ([-2, 0], r"-2\.\.0"),
        ([-1, -1], r"-1\.\.-1"),
        (torch.zeros(0, dtype=torch.long), "shape"),
    ],
)
def test_bad_partitions(labels: list[int] | torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Partition(labels)


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="set_size=4, num_patches=6"):
        Partition.contiguous(6, 4)
    with pytest.raises(ValueError, match="tile width=3, grid width=4"):
        Partition.tiles((4, 4), (2, 3))


def test_unequal_sets_have_no_one_size() -> None:
    partition = Partition([1, 0, -1, 1, 1])
    assert partition.sizes.tolist() == [1, 3]
    assert partition.order.tolist() == [1, 0, 3, 4, 2]
    assert partition.same.sum() == 1 + 9
    assert not partition.same[2].any()
    with pytest.raises(ValueError, match=r"set_size: the sets must have one size, got sizes \[1, 3\]"):
        partition.sets  # noqa: B018


def test_patches_in_no_set_are_in_no_set() -> None:
    partition = Partition([0, -1, 1, 0, 1, -1])
    assert partition.set_size == 2
    assert partition.sets.tolist() == [[0, 3], [2, 4]]
    assert repr(partition) == "Partition(D=6, L=2, C=2)"


def test_covers_hold_what_they_are_told() -> None:
    cover = Cover([[True, True, False], [False, True, True]])
    assert (cover.num_patches, cover.num_sets, cover.set_size) == (3, 2, 2)
    with pytest.raises(
        ValueError, match=r"the flow is not defined for overlapping sets: patch 1 is in sets \[0, 1\]"
    ):
        cover.as_partition("the flow")
    assert Cover([[False, True, False]]).as_partition("it").labels.tolist() == [-1, 0, -1]
    with pytest.raises(ValueError, match="set 1 is empty"):
        Cover([[True], [False]])
    with pytest.raises(TypeError, match="boolean"):
        Cover(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"\(L, D\), got \(3,\)"):
        Cover(torch.ones(3).bool())


def test_unsigned_labels_are_labels() -> None:
    assert Partition(torch.tensor([0, 1, 1, 0], dtype=torch.uint8)).labels.tolist() == [0, 1, 1, 0]


def test_sets_stay_when_the_tensor_they_are_given_in_changes() -> None:
    """Labels changed without their membership, and membership without its sizes."""
    labels, membership = torch.tensor([0, 0, 1, 1]), torch.tensor([[True, True, False], [False, True, True]])
    partition, cover = Partition(labels), Cover(membership)
    labels.copy_(torch.tensor([0, 1, 0, 1]))
    membership[0, 1] = False
    assert partition.labels.tolist() == [0, 0, 1, 1]
    assert (partition.same == partition.membership[partition.labels]).all()
    assert cover.membership.sum(1).tolist() == cover.sizes.tolist() == [2, 2]

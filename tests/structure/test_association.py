"""Patch association against its definition, and the partition recovered from maps."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from posattn.structure.association import partition_recovery, patch_association, recover_partition
from posattn.structure.partition import Partition


def by_definition(scores: Tensor, partition: Partition) -> tuple[float, float, float]:
    """(top_c, exact, mass), ties averaged over every order of the columns."""
    D, C = partition.num_patches, partition.set_size
    labels, rows = partition.labels.tolist(), scores.tolist()
    shares, exact, mass = [], [], []
    for i, row in enumerate(rows):
        own = {j for j in range(D) if labels[j] == labels[i]}
        tops = [
            sorted(range(D), key=lambda j, row=row, order=order: (-row[j], order[j]))[:C]
            for order in itertools.permutations(range(D))
        ]
        shares.append(sum(len(own & set(top)) for top in tops) / len(tops) / C)
        exact.append(all(set(top) == own for top in tops))
        weights = [math.exp(x) for x in row]
        mass.append(sum(weights[j] for j in own) / sum(weights))
    return sum(shares) / D, sum(exact) / D, sum(mass) / D


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(-2, 2), min_size=36, max_size=36), st.sampled_from([1, 2, 3, 6]), st.integers(0, 9)
)
def test_it_is_the_definition_with_ties(entries: list[int], size: int, seed: int) -> None:
    scores = torch.tensor(entries).reshape(6, 6).double()
    partition = Partition.random(6, size, generator=Generator().manual_seed(seed))
    top_c, exact, mass = by_definition(scores, partition)
    found = patch_association(scores - 10, partition)  # shifted, for an integer row could be a distribution
    assert found.top_c == pytest.approx(top_c)
    assert found.exact == pytest.approx(exact)
    assert found.mass == pytest.approx(mass)
    assert found.chance == size / 6


def test_known_maps() -> None:
    partition = Partition.contiguous(6, 2)
    constant = patch_association(torch.zeros(6, 6), partition)
    assert (constant.top_c, constant.exact) == (pytest.approx(1 / 3), 0)
    true = patch_association(partition.same.double() / 2, partition)
    assert tuple(true) == (1, 1, 1, pytest.approx(1 / 3))


def test_a_batch_is_its_maps_and_renaming_changes_nothing(generator: Generator) -> None:
    partition = Partition.random(12, 3, generator=generator)
    maps = torch.randn(2, 3, 12, 12, generator=generator)
    batch = patch_association(maps, partition)
    order = torch.randperm(12, generator=generator)
    renamed = patch_association(maps[..., order, :][..., order], Partition(partition.labels[order]))
    for field in ("top_c", "exact", "mass"):
        together = getattr(batch, field)
        assert together.shape == (2, 3)
        single = [getattr(patch_association(m, partition), field) for m in maps.reshape(6, 12, 12)]
        assert together.flatten().tolist() == pytest.approx(single)
        torch.testing.assert_close(getattr(renamed, field), together)


def test_maps_and_their_scores_agree(generator: Generator) -> None:
    partition, scores = Partition.contiguous(12, 3), torch.randn(12, 12, generator=generator)
    of_scores, of_map = (patch_association(x, partition) for x in (scores, scores.softmax(-1)))
    assert tuple(of_map) == pytest.approx(tuple(of_scores), abs=1e-6)


def planted(partition: Partition, strength: float, generator: Generator) -> Tensor:
    D = partition.num_patches
    return strength * partition.same + torch.randn(D, D, generator=generator)


def test_a_planted_partition_is_recovered(generator: Generator) -> None:
    partition = Partition.random(48, 6, generator=generator)
    scores = planted(partition, 4.0, generator)
    found = recover_partition(scores, 8)
    same = found[:, None] == found[None, :]
    assert torch.equal(same, partition.same)
    assert partition_recovery(scores, partition) == 1.0


def test_recovery_by_heads_is_recovery_of_each(generator: Generator) -> None:
    partition = Partition.random(24, 6, generator=generator)
    maps = torch.stack([planted(partition, s, generator).softmax(-1) for s in (5.0, 0.0, 3.0, 1.0)])
    together = partition_recovery(maps.reshape(2, 2, 24, 24), partition)
    assert isinstance(together, Tensor)
    single = [partition_recovery(m, partition) for m in maps]
    assert together.flatten().tolist() == pytest.approx(single)
    assert single[0] == 1.0
    assert abs(single[1]) < 0.3  # a map of noise alone


def test_bad_maps() -> None:
    partition = Partition.contiguous(6, 2)
    for measure in (patch_association, partition_recovery):
        with pytest.raises(ValueError, match=r"\(\.\.\., 6, 6\), got \(5, 5\)"):
            measure(torch.zeros(5, 5), partition)
        with pytest.raises(ValueError, match="finite"):
            measure(torch.full((6, 6), torch.nan), partition)
    with pytest.raises(ValueError, match="at most D = 6, got 7"):
        recover_partition(torch.zeros(6, 6), 7)

"""Patch association against its definition, and the partition recovered from maps."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from posattn.structure.association import patch_association, recover_partition
from posattn.structure.partition import Cover, Partition


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


def chance_by_definition(scores: Tensor, partition: Partition) -> float:
    """The mean of top_c over rows whose entries off the diagonal are cut and pasted: each with every order of theirs.

    Of a row, only what stands in the own set matters: every choice of values for those places is as likely.
    """
    D, labels = partition.num_patches, partition.labels.tolist()
    total = 0.0
    for i, row in enumerate(scores.tolist()):
        C = labels.count(labels[i])
        others = row[:i] + row[i + 1 :]
        shares = []
        for chosen in itertools.combinations(range(D - 1), C - 1):
            own = [row[i], *(others[k] for k in chosen)]
            ordered = sorted(row, reverse=True)
            threshold = ordered[C - 1]
            slots = C - sum(x > threshold for x in row)
            tied = sum(x == threshold for x in own) / row.count(threshold)
            shares.append((sum(x > threshold for x in own) + slots * tied) / C)
        total += sum(shares) / len(shares)
    return total / D


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
    assert found.chance == pytest.approx(chance_by_definition(scores, partition))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_in_half_precision_are_maps(generator: Generator, dtype: torch.dtype) -> None:
    """Their rows sum to 1 only up to rounding; taken for scores, their mass would be close to C / D."""
    partition = Partition([0] * 5 + [1] * 21 + [2] * 7)
    maps = torch.softmax(3 * torch.randn(4, 33, 33, generator=generator), -1)
    found, exact = patch_association(maps.to(dtype), partition), patch_association(maps, partition)
    assert torch.is_tensor(found.mass)
    torch.testing.assert_close(found.mass, exact.mass, rtol=0.0, atol=torch.finfo(dtype).eps)


def test_known_maps() -> None:
    partition = Partition.contiguous(6, 2)
    constant = patch_association(torch.zeros(6, 6), partition)
    assert (constant.top_c, constant.exact) == (pytest.approx(1 / 3), 0)
    true = patch_association(partition.same.double() / 2, partition)
    assert tuple(true) == (1, 1, 1, pytest.approx((1 + 1 / 5) / 2))  # the diagonal is a hit in any order


@pytest.mark.parametrize(
    ("sizes", "diagonal", "expected"),
    [
        ([5] * 12, 9.0, 0.2542),  # D = 60, C = 5, the diagonal on top: (1 + (C-1)²/(D-1))/C
        ([5] * 12, -9.0, 4 / 59),  # below all others
        ([5] * 12, 1.5, None),  # among them
        ([2, 7, 4, 1, 6], 9.0, None),  # unequal sets
        ([2, 7, 4, 1, 6], 1.0, None),
    ],
)
def test_chance_is_the_mean_of_random_scores_under_the_held_diagonal(
    sizes: list[int], diagonal: float, expected: float | None
) -> None:
    """Within 4 standard errors of the mean over 1,000 random orders; two patches are in no set."""
    generator = Generator().manual_seed(3)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    partition = Partition(torch.cat([labels, torch.tensor([-1, -1])]) if expected is None else labels)
    D = partition.num_patches
    row = torch.randn(D, D, generator=generator, dtype=torch.double).fill_diagonal_(diagonal)
    off = ~torch.eye(D, dtype=torch.bool)
    shuffled = row.repeat(1000, 1, 1)
    order = torch.rand(1000, D, D - 1, generator=generator).argsort(-1)
    shuffled[:, off] = row[off].reshape(D, D - 1).expand(1000, D, D - 1).gather(-1, order).reshape(1000, -1)
    found = patch_association(shuffled, partition)
    assert isinstance(found.top_c, Tensor)
    assert isinstance(found.chance, Tensor)
    error = found.top_c.std() / 1000**0.5
    torch.testing.assert_close(found.chance, found.chance[:1].expand(1000))
    assert abs(found.top_c.mean() - found.chance[0]) < 4 * error
    if expected is not None:
        assert found.chance[0].item() == pytest.approx(expected, abs=1e-4)


def test_unequal_sets_and_patches_in_no_set(generator: Generator) -> None:
    """Each row counts as many entries as its own set holds; a patch in no set has no row."""
    partition = Partition([0, 1, 1, 1, -1, 0])
    scores = torch.randn(6, 6, generator=generator)
    rows = []
    for i in (0, 1, 2, 3, 5):
        own = {j for j in range(6) if partition.labels[j] == partition.labels[i]}
        rows.append(len(own & set(scores[i].topk(len(own)).indices.tolist())) / len(own))
    assert patch_association(scores, partition).top_c == pytest.approx(sum(rows) / 5)
    found = patch_association(torch.where(partition.same, 1.0, -9.0), partition)
    assert (found.top_c, found.exact) == (1, 1)


def test_overlapping_sets_are_refused_by_name_and_disjoint_covers_are_partitions() -> None:
    maps = torch.rand(4, 4)
    overlapping = Cover(torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]).bool())
    with pytest.raises(
        ValueError, match=r"patch association is not defined for overlapping sets: patch 1 is in"
    ):
        patch_association(maps, overlapping)
    disjoint = Cover(torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]).bool())
    assert patch_association(maps, disjoint) == patch_association(maps, Partition([0, -1, 0, 1]))


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


def test_maps_and_scores_in_one_batch_are_told_apart(generator: Generator) -> None:
    partition = Partition.contiguous(8, 2)
    scores = 3 * torch.randn(8, 8, generator=generator)
    both = torch.stack([torch.softmax(scores, -1), scores])
    masses = [patch_association(map_, partition).mass for map_ in both]
    found = patch_association(both, partition).mass
    assert isinstance(found, Tensor)
    assert found.tolist() == pytest.approx(masses)
    assert masses[0] == pytest.approx(masses[1])
    assert (recover_partition(both, 4)[0] == recover_partition(both[0], 4)).all()


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


def test_recovery_by_heads_is_recovery_of_each(generator: Generator) -> None:
    partition = Partition.random(24, 6, generator=generator)
    maps = torch.stack([planted(partition, s, generator).softmax(-1) for s in (5.0, 0.0, 3.0, 1.0)])
    together = recover_partition(maps.reshape(2, 2, 24, 24), 4)
    assert together.shape == (2, 2, 24)
    assert torch.equal(together.flatten(0, 1), torch.stack([recover_partition(m, 4) for m in maps]))


def test_recovery_of_a_single_patch_and_of_no_map() -> None:
    assert recover_partition(torch.zeros(1, 1), 1).tolist() == [0]
    assert recover_partition(torch.zeros(0, 3, 3), 2).shape == (0, 3)


def test_bad_maps() -> None:
    partition = Partition.contiguous(6, 2)
    with pytest.raises(ValueError, match=r"\(\.\.\., 6, 6\), got \(5, 5\)"):
        patch_association(torch.zeros(5, 5), partition)
    with pytest.raises(ValueError, match="finite"):
        patch_association(torch.full((6, 6), torch.nan), partition)
    with pytest.raises(ValueError, match="at most D = 6, got 7"):
        recover_partition(torch.zeros(6, 6), 7)

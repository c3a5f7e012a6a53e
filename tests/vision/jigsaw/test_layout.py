"""Layouts: what score profiles say of neighbours, and how a layout is compared with the true one."""

import pytest
import torch
from puzzles import GRIDS, permutation, smooth_scores
from torch import Generator

from posattn.vision.jigsaw.layout import (
    adjacency,
    align,
    centred_scores,
    neighbour_pairs_recovered,
    neighbour_recall,
    partial_correlation,
    profile_similarity,
    symmetries,
)


def test_partial_correlation_is_that_of_regression_residuals() -> None:
    profiles = torch.randn(50, 5, generator=Generator().manual_seed(0), dtype=torch.double)
    profiles = profiles @ torch.randn(5, 5, generator=Generator().manual_seed(1), dtype=torch.double)
    given = profiles[:, 2:]
    left = profiles[:, :2] - given @ torch.linalg.lstsq(given, profiles[:, :2]).solution
    expected = left[:, 0] @ left[:, 1] / left[:, 0].norm() / left[:, 1].norm()
    assert partial_correlation(profiles, 1e-12)[0, 1] == pytest.approx(expected.item(), abs=1e-9)


def test_large_shrinkage_gives_the_plain_correlation() -> None:
    profiles = torch.randn(50, 5, generator=Generator().manual_seed(0), dtype=torch.double)
    plain = profiles.T @ profiles
    plain = plain / plain.diagonal().sqrt() / plain.diagonal().sqrt()[:, None]
    found = partial_correlation(profiles, 1e6) * 1e6
    others = ~torch.eye(5, dtype=torch.bool)
    assert torch.allclose(found[others], plain[others], atol=1e-5)


def test_centred_scores_do_not_tell_scores_from_maps() -> None:
    scores = smooth_scores((3, 3))
    assert torch.allclose(centred_scores(scores), centred_scores(scores.softmax(-1)), atol=1e-9)
    assert torch.allclose(centred_scores(scores), centred_scores(3 * scores + 1), atol=1e-9)


def test_maps_and_scores_in_one_batch_are_told_apart(generator: Generator) -> None:
    scores = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    found = centred_scores(torch.stack([scores.softmax(-1), scores]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_no_scores(dtype: torch.dtype) -> None:
    maps = smooth_scores((3, 5)).softmax(-1).to(dtype)  # rows sum to 1 up to their rounding
    torch.testing.assert_close(profile_similarity(maps), profile_similarity(maps.double().log()))


def test_similarity_follows_a_relabelling_of_positions() -> None:
    scores, order = smooth_scores((3, 4)), permutation(12)
    moved = profile_similarity(scores[:, order][:, :, order])
    assert torch.allclose(moved, profile_similarity(scores)[order][:, order], atol=1e-9)


def test_similarity_does_not_tell_queries_from_keys() -> None:
    heads = centred_scores(smooth_scores((3, 4)))
    assert torch.allclose(
        partial_correlation(torch.cat([heads, heads.mT]).flatten(0, 1)),
        partial_correlation(torch.cat([heads.mT, heads]).flatten(0, 1)),
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_neighbours_of_smooth_scores_are_most_similar(grid: tuple[int, int]) -> None:
    scores, order = smooth_scores(grid), permutation(grid[0] * grid[1])
    similarity = profile_similarity(scores[:, order][:, :, order])
    assert neighbour_recall(similarity, order, grid) > 0.95


def test_recall_of_noise_is_chance() -> None:
    grid, truth = (6, 6), torch.arange(36)
    found = [
        neighbour_recall(profile_similarity(smooth_scores(grid, 2, 1e6, seed)), truth, grid)
        for seed in range(40)
    ]
    assert sum(found) / 40 == pytest.approx(4 / 35, abs=0.015)


def test_recall_leaves_the_similarity_as_it_is() -> None:
    similarity = profile_similarity(smooth_scores((3, 4)))
    before = similarity.clone()
    neighbour_recall(similarity, torch.arange(12), (3, 4))
    assert torch.equal(similarity, before)


@pytest.mark.parametrize("grid", GRIDS)
def test_adjacency_counts_the_edges_of_the_grid(grid: tuple[int, int]) -> None:
    H, W = grid
    near = adjacency(grid)
    assert torch.equal(near, near.T)
    assert near.sum() == 2 * (2 * H * W - H - W)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_symmetry_recovers_every_pair_and_is_undone(grid: tuple[int, int]) -> None:
    truth, ways = permutation(grid[0] * grid[1]), symmetries(grid)
    assert len({tuple(way.tolist()) for way in ways}) == (8 if grid[0] == grid[1] else 4)
    for way in ways:
        assert neighbour_pairs_recovered(way[truth], truth, grid) == 1
        assert torch.equal(align(way[truth], truth, grid), truth)


def test_pairs_recovered_by_a_random_layout_are_chance() -> None:
    grid, truth = (5, 5), torch.arange(25)
    found = [neighbour_pairs_recovered(permutation(25, seed), truth, grid) for seed in range(400)]
    assert sum(found) / 400 == pytest.approx(40 / 300, abs=0.01)


def test_pairs_recovered_by_a_known_layout() -> None:
    assert neighbour_pairs_recovered(torch.tensor([0, 2, 1]), torch.arange(3), (1, 3)) == 0.5


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        profile_similarity(torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match="constant"):
        profile_similarity(torch.ones(3, 3))
    with pytest.raises(ValueError, match="positive"):
        profile_similarity(torch.eye(3))
    with pytest.raises(ValueError, match="shrinkage"):
        profile_similarity(torch.rand(3, 3), 0.0)


def test_what_is_no_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="each place once"):
        neighbour_pairs_recovered(torch.tensor([0, 0, 1, 2]), torch.arange(4), (2, 2))
    with pytest.raises(ValueError, match="two places"):
        adjacency((1, 1))

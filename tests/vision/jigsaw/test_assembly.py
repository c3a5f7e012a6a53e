"""Putting positions together: exact on clean puzzles, an optimum of exchanges on any."""

from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from puzzles import GRIDS, permutation, smooth_scores

from posattn.vision.grid import Grid, distances
from posattn.vision.jigsaw.assembly import as_fit, assigned_layout, grown, improved, recover_layout, total
from posattn.vision.jigsaw.layout import adjacency, neighbour_pairs_recovered, profile_similarity


@pytest.mark.parametrize("grid", GRIDS)
def test_the_layout_of_smooth_scores_is_recovered(grid: tuple[int, int]) -> None:
    for seed in range(2):
        order = permutation(grid[0] * grid[1], seed)
        scores = smooth_scores(grid, seed=seed)[:, order][:, :, order]
        layout = recover_layout(profile_similarity(scores), grid, rounds=20)
        assert neighbour_pairs_recovered(layout, order, grid) == 1


def test_a_large_grid_is_recovered_where_a_tenth_of_the_similarities_is_false() -> None:
    grid = (7, 8)
    order = permutation(56)
    similarity = adjacency(grid).double()[order][:, order]
    noise = torch.rand(56, 56, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    layout = recover_layout(torch.where(noise > 0.98, 1.0, similarity + noise / 4), grid, rounds=30)
    assert neighbour_pairs_recovered(layout, order, grid) == 1


def test_noise_recovers_about_as_little_as_chance() -> None:
    found = []
    for seed in range(4):
        similarity = profile_similarity(smooth_scores((6, 6), 4, 1e6, seed))
        layout = recover_layout(similarity, (6, 6), rounds=0)
        found.append(neighbour_pairs_recovered(layout, torch.arange(36), (6, 6)))
    assert np.mean(found) < 0.2  # chance 0.095


def test_the_best_of_all_layouts_is_found_on_a_small_grid() -> None:
    similarity = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    fit = as_fit(similarity, (2, 3))
    best = max(total(fit, np.array(order).reshape(2, 3)) for order in permutations(range(6)))
    layout = recover_layout(similarity, (2, 3), rounds=50)
    assert total(fit, layout.argsort().numpy().reshape(2, 3)) == pytest.approx(best)


def test_no_exchange_gains_after_improvement() -> None:
    fit = as_fit(torch.rand(12, 12, generator=torch.Generator().manual_seed(0)), (3, 4))
    start = np.arange(12).reshape(3, 4)
    end = improved(fit, start)
    assert total(fit, end) > total(fit, start)
    for first, second in combinations(range(12), 2):
        other = end.flatten()
        other[[first, second]] = other[[second, first]]
        assert total(fit, other.reshape(3, 4)) <= total(fit, end) + 1e-9


def test_a_grown_arrangement_holds_its_block_and_every_position_once() -> None:
    fit = as_fit(torch.rand(12, 12, generator=torch.Generator().manual_seed(0)), (3, 4))
    whole = grown(fit, np.array([[3, 7], [5, 1]]), (3, 4))
    assert sorted(whole.flatten().tolist()) == list(range(12))
    row, column = (int(at[0]) for at in np.nonzero(whole == 3))
    assert whole[row : row + 2, column : column + 2].tolist() == [[3, 7], [5, 1]]


def test_the_layout_is_a_function_of_the_seed() -> None:
    similarity = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    one, again = (recover_layout(similarity, (4, 5), rounds=10, seed=3) for _ in range(2))
    assert torch.equal(one, again)


def test_embedding_and_assignment_lay_out_a_clean_grid() -> None:
    order = permutation(30)
    similarity = adjacency((5, 6)).double()[order][:, order]
    assert neighbour_pairs_recovered(assigned_layout(similarity, (5, 6)), order, (5, 6)) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_embedding_is_as_good_on_a_wide_grid_as_on_the_same_grid_upright(seed: int) -> None:
    similarity = (-(distances(Grid(7, 5)) ** 2) / 4).exp().double()
    noise = 0.15 * torch.randn(35, 35, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    similarity = similarity + (noise + noise.T) / 2
    truth = torch.arange(35)
    turned = truth.reshape(5, 7).T.flatten()  # the place of each position once rows are columns
    for grid, order in (((7, 5), truth), ((5, 7), turned)):
        assert neighbour_pairs_recovered(assigned_layout(similarity, grid), order, grid) == 1


def test_what_is_no_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        recover_layout(torch.zeros(3, 3), (2, 2))
    with pytest.raises(ValueError, match="finite"):
        recover_layout(torch.full((4, 4), torch.inf), (2, 2))
    with pytest.raises(ValueError, match="rounds"):
        recover_layout(torch.zeros(4, 4), (2, 2), rounds=-1)
    with pytest.raises(ValueError, match=r"at least three places to embed, got \(1, 2\)"):
        assigned_layout(torch.zeros(2, 2), (1, 2))


@pytest.mark.parametrize("method", [recover_layout, assigned_layout])
@pytest.mark.parametrize("grid", [(0, 3), (3, 0), (-2, -3)])
def test_a_grid_without_places_is_refused(method: Callable[..., Any], grid: tuple[int, int]) -> None:
    side = "rows" if grid[0] < 1 else "columns"
    with pytest.raises(ValueError, match=f"grid {side} must be at least 1, got"):
        method(torch.zeros(grid[0] * grid[1], grid[0] * grid[1]), grid)

"""The layout of a model's positions in the image, recovered from its positional scores alone.

A position is a patch's index in the model. A layout is the place of each position on an (H, W) grid,
row by row. Positions that are neighbours in the image hold similar content, so their scores vary together, as keys
and as queries. Partial correlation, given all other positions, falls off within a step or two: its largest
values mark the neighbours.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posattn import checks
from posattn.shapes import Maps
from posattn.structure.association import is_attention
from posattn.vision.grid import Grid, distances

Similarity = Float[Tensor, "N N"]
Layout = Int[Tensor, " N"]
ROUNDING = 1e-9  # of distances between the places of a grid
TINY = 1e-30  # below it an entry of a map may be 0 in float32


def positive(maps: Maps) -> Maps:
    """Maps in float64 without entries of 0, which sharp ones have in float32 and whose logarithm is no number."""
    return maps.double().clamp(min=TINY)


def profile_similarity(scores_or_maps: Maps, shrinkage: float = 0.1) -> Similarity:
    """The partial correlation of every two positions' score profiles, over all heads of all layers.

    Scores are centred over queries and over keys, scaled to unit standard deviation in every head, without their
    diagonal. Profiles are both columns (the position as a key) and rows (as a query).

    Args:
        scores_or_maps: (..., N, N) scores A or maps S; log S of each that is a map is taken.
        shrinkage: λ, added to the diagonal of the correlation before it is inverted. Large values give the
            plain correlation, which falls off with distance more slowly.

    Returns:
        (N, N), symmetric, 1 on the diagonal.

    Raises:
        TypeError, ValueError: the maps are not square, not finite, constant or, as maps, not positive; λ <= 0.
    """
    heads = centred_scores(scores_or_maps)
    return partial_correlation(torch.cat([heads, heads.mT]).flatten(0, 1), shrinkage)


def partial_correlation(profiles: Float[Tensor, "samples N"], shrinkage: float = 0.1) -> Similarity:
    """The partial correlation of every two columns, which have mean 0; ``shrinkage`` as above.

    TypeError, ValueError: a column is constant, or λ <= 0.
    """
    checks.positive("shrinkage", shrinkage)
    covariance = profiles.T @ profiles
    if not (covariance.diagonal() > 0).all():
        raise ValueError("every position must vary, got a constant one")
    correlation = as_correlation(covariance)
    eye = torch.eye(len(correlation), dtype=correlation.dtype, device=correlation.device)
    return as_correlation(torch.linalg.inv(correlation + shrinkage * eye)).neg() + 2 * eye


def centred_scores(scores_or_maps: Maps) -> Float[Tensor, "heads N N"]:
    """Scores of unit standard deviation without row means, column means and diagonal, in float64."""
    N = scores_or_maps.shape[-1]
    if scores_or_maps.shape[-2] != N:
        raise ValueError(f"maps must be (..., N, N), got {tuple(scores_or_maps.shape)}")
    if not scores_or_maps.isfinite().all():
        raise ValueError("maps must be finite, got NaN or infinity")
    given = scores_or_maps.detach().double()
    maps = is_attention(scores_or_maps)[..., None, None]  # by their own rounding
    scores = torch.where(maps, given.log(), given).reshape(-1, N, N)
    if not scores.isfinite().all():
        raise ValueError("maps must be positive, got an entry of 0")
    scores = scores - scores.mean(-1, keepdim=True)
    scores = scores - scores.mean(-2, keepdim=True)
    scores = scores * (1 - torch.eye(N, dtype=scores.dtype, device=scores.device))
    std = scores.flatten(1).std(-1)[:, None, None]
    return torch.where(std > ROUNDING, scores / std, torch.zeros_like(scores))


def as_correlation(covariance: Similarity) -> Similarity:
    """A covariance scaled to 1 on the diagonal."""
    std = covariance.diagonal().sqrt()
    return covariance / std[:, None] / std


def adjacency(grid: tuple[int, int]) -> Bool[Tensor, "N N"]:
    """Which places of an (H, W) grid share an edge. Raises ValueError if the grid has a single place."""
    H, W = checked_grid(grid)
    if H * W < 2:
        raise ValueError(f"a grid must have at least two places, got {grid}")
    return (distances(Grid(H, W)) - 1).abs() < ROUNDING


def checked_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """The grid, or TypeError or ValueError where a side is not an integer of at least 1."""
    names = "grid rows", "grid columns"
    height, width = (checks.positive_int(name, side) for name, side in zip(names, grid, strict=True))
    return height, width


def neighbour_recall(similarity: Similarity, layout: Layout, grid: tuple[int, int]) -> float:
    """The share of true neighbours that are among a position's four most similar ones.

    Chance is 4 / (N - 1). ``layout`` holds the true place of each position. Raises ValueError if sizes differ.
    """
    near = placed(adjacency(grid), checked(layout, grid))
    if similarity.shape != near.shape:
        raise ValueError(f"similarity must be {tuple(near.shape)}, got {tuple(similarity.shape)}")
    own = torch.eye(len(near), dtype=torch.bool)
    others = similarity.detach().cpu().double().masked_fill(own, -torch.inf)
    largest = others.topk(min(4, len(others) - 1), dim=-1).indices
    return (near.gather(-1, largest).sum() / near.sum()).item()


def neighbour_pairs_recovered(layout: Layout, truth: Layout, grid: tuple[int, int]) -> float:
    """The share of true neighbour pairs that are neighbours in the layout; 1 for every symmetry of the truth.

    Args:
        layout: the place that each position is given.
        truth: the place that each position has: the permutation, for patches moved by ``shuffle_patches``.
        grid: (H, W).

    Chance is (2HW - H - W) / (N (N - 1) / 2). Raises ValueError if one is not a layout of the grid.
    """
    near = adjacency(grid)
    both = placed(near, checked(layout, grid)) & placed(near, checked(truth, grid))
    return (both.sum() / near.sum()).item()


def align(layout: Layout, truth: Layout, grid: tuple[int, int]) -> Layout:
    """The layout rotated and mirrored so that most positions are at their true places; scores cannot tell which way.

    Raises ValueError if one is not a layout of the grid.
    """
    layout, truth = checked(layout, grid), checked(truth, grid)
    turned = [symmetry[layout] for symmetry in symmetries(grid)]
    return max(turned, key=lambda one: int((one == truth).sum()))


def symmetries(grid: tuple[int, int]) -> list[Layout]:
    """The permutation of places under each symmetry of the grid: eight for a square, else four."""
    places = np.arange(grid[0] * grid[1]).reshape(grid)
    turns = range(4) if grid[0] == grid[1] else (0, 2)
    turned = [np.rot90(way, turn) for way in (places, places[::-1]) for turn in turns]
    return [torch.from_numpy(one.flatten()) for one in turned]


def placed(near: Bool[Tensor, "N N"], layout: Layout) -> Bool[Tensor, "N N"]:
    """A matrix over places, reindexed by positions."""
    return near[layout][:, layout]


def checked(layout: Layout, grid: tuple[int, int]) -> Layout:
    """The layout, or ValueError where it does not give each place of the grid to one position."""
    layout = layout.detach().cpu().long()
    if not torch.equal(layout.sort().values, torch.arange(grid[0] * grid[1])):
        raise ValueError(f"a layout of grid {grid} must hold each place once, got {layout.tolist()[:20]}")
    return layout

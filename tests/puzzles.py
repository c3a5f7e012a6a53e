"""Positions on a grid, known by scores that are smooth over it, and shuffled."""

import torch
from torch import Generator, Tensor

from posattn.vision.grid import Grid, distances

GRIDS = [(4, 4), (3, 5), (6, 4)]


def smooth_scores(grid: tuple[int, int], heads: int = 24, noise: float = 0.1, seed: int = 0) -> Tensor:
    """Random scores, smooth over the grid in queries and in keys, with white noise."""
    generator = Generator().manual_seed(seed)
    N = grid[0] * grid[1]
    kernel = (-(distances(Grid(*grid)) ** 2) / 2).exp()
    white, rough = torch.randn(2, heads, N, N, generator=generator, dtype=torch.double)
    return kernel @ white @ kernel + noise * rough


def permutation(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(count, generator=Generator().manual_seed(seed))

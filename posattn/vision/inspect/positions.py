"""Similarity of the positional embeddings that a forward pass adds to the patches."""

import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from posattn.vision.grid import Grid, distances


def similarity(embedded: Float[Tensor, "D d"]) -> Float[Tensor, "D D"]:
    """Cosine similarity of the positional embeddings of every two patches, their common mean taken off."""
    patches = embedded.detach().cpu().double()
    centred = torch.nn.functional.normalize(patches - patches.mean(0), dim=-1)
    return centred @ centred.T


def by_distance(similar: Float[Tensor, "D D"], grid: Grid) -> list[tuple[float, float]]:
    """Each distance between patches that occurs, with the mean similarity over the pairs so far apart."""
    apart, place = distances(grid).flatten().unique(return_inverse=True)
    sums = torch.zeros_like(apart).index_add(0, place, similar.flatten())
    return list(zip(apart.tolist(), (sums / torch.bincount(place)).tolist(), strict=True))


def closeness_correlation(similar: Float[Tensor, "D D"], grid: Grid) -> float:
    """Spearman's rank correlation of similarity with nearness, over the pairs of different patches.

    1: the nearer, the more similar; about 0 for embeddings that know no neighbours; NaN where all are alike.
    """
    pairs = torch.ones_like(similar, dtype=torch.bool).triu(1)
    return float(spearmanr(similar[pairs], -distances(grid)[pairs]).statistic)

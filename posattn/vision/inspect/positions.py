"""Similarity of a model's positional embeddings."""

from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from posattn.vision.grid import Tokens, distances


def embedding_similarity(model: Any, tokens: Tokens) -> Float[Tensor, "D D"] | None:
    """Cosine similarity of the positional embeddings of every two patches, their common mean taken off.

    The encodings P that positional attention reads, else the embedding added to the patches; None without one.
    """
    embedded = getattr(getattr(model, "pos_encodings", None), "weight", None)
    embedded = getattr(model, "pos_embed", None) if embedded is None else embedded
    if (
        not isinstance(embedded, Tensor)
        or embedded.ndim not in (2, 3)
        or embedded.shape[-2] < tokens.num_patches
    ):
        return None
    patches = embedded.detach().double().cpu().reshape(-1, embedded.shape[-1])[-tokens.num_patches :]
    centred = patches - patches.mean(0)
    return torch.nn.functional.normalize(centred, dim=-1) @ torch.nn.functional.normalize(centred, dim=-1).T


def by_distance(similarity: Float[Tensor, "D D"], tokens: Tokens) -> list[tuple[float, float]]:
    """Each distance between patches that occurs, with the mean similarity over the pairs so far apart."""
    apart, place = distances(tokens).flatten().unique(return_inverse=True)
    sums = torch.zeros_like(apart).index_add(0, place, similarity.flatten())
    return list(zip(apart.tolist(), (sums / torch.bincount(place)).tolist(), strict=True))


def closeness_correlation(similarity: Float[Tensor, "D D"], tokens: Tokens) -> float:
    """Spearman's rank correlation of similarity with nearness, over the pairs of different patches.

    1: the nearer, the more similar; about 0 for embeddings that know no neighbours; NaN where all are alike.
    """
    pairs = torch.ones_like(similarity, dtype=torch.bool).triu(1)
    return float(spearmanr(similarity[pairs], -distances(tokens)[pairs]).statistic)

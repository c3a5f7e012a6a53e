"""How much of the hidden structure an attention map holds.

Source: arXiv 2210.09221, the definition of patch association.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from posattn import checks
from posattn.shapes import Maps
from posattn.structure.partition import Partition


class PatchAssociation(NamedTuple):
    """Patch association of one map (floats) or of a batch of maps (tensors of its leading shape)."""

    top_c: float | Tensor  # mean over rows of the share of the C largest entries that lie in the own set
    exact: float | Tensor  # share of the rows whose C largest entries are the own set
    mass: float | Tensor  # mean over rows of the attention inside the own set
    chance: float  # top_c of a random order of each row, C / D


def patch_association(scores_or_map: Maps, partition: Partition) -> PatchAssociation:
    """Patch association: for every ℓ and i in S_ℓ, the C largest entries of row i are S_ℓ.

    Ties: ``top_c`` is the expectation over a random order of equal entries (a constant row scores C / D); a
    row is exact only if each entry of its own set is larger than every other.

    Args:
        scores_or_map: (..., D, D) scores A or maps S; what is not row-stochastic is taken for scores and its
            row-softmax gives the mass.
        partition: the sets.

    Raises:
        ValueError: the maps are not square, not finite, or of another D than the partition.
    """
    maps = _checked(scores_or_map, partition.num_patches)
    own = partition.same.to(maps.device)
    share = own_share_of_largest(maps, own)
    inside = maps.masked_fill(~own, torch.inf).amin(-1)
    outside = maps.masked_fill(own, -torch.inf).amax(-1)
    rows = (share, inside > outside, (as_attention(maps) * own).sum(-1))
    means = [figure.double().mean(-1) for figure in rows]
    top_c, exact, mass = [mean.item() if mean.ndim == 0 else mean for mean in means]
    return PatchAssociation(top_c, exact, mass, partition.set_size / partition.num_patches)


def recover_partition(scores_or_map: Maps, num_sets: int, *, seed: int = 0) -> Int[Tensor, "*heads D"]:
    """The sets that a map shows to one who does not know them, as labels 0..L-1 of each patch.

    Spectral clustering (scikit-learn) of the graph whose edges are the mutual attention (S + Sᵀ)/2; the sets
    found may differ in size.

    Args:
        scores_or_map: (..., D, D) scores or maps, as in ``patch_association``; each is clustered by itself.
        num_sets: L, at most D.
        seed: of the search for the clusters.

    Raises:
        TypeError, ValueError: the maps are not square or not finite, or L is not in 1..D.
    """
    D = scores_or_map.shape[-1]
    maps = as_attention(_checked(scores_or_map, D))
    if checks.positive_int("num_sets", num_sets) > D:
        raise ValueError(f"num_sets must be at most D = {D}, got {num_sets}")
    graphs = ((maps + maps.mT) / 2).reshape(-1, D, D).cpu().numpy()
    clustering = SpectralClustering(num_sets, affinity="precomputed", random_state=seed)
    found = [torch.from_numpy(clustering.fit_predict(graph)).long() for graph in graphs]
    return torch.stack(found).reshape(scores_or_map.shape[:-1])


def partition_recovery(scores_or_map: Maps, partition: Partition, *, seed: int = 0) -> float | Tensor:
    """The adjusted Rand index of the recovered partition against the true one: 1 equal, 0 expected by chance.

    A float for one map, a tensor of their leading shape for a batch. Errors as in ``recover_partition``, and
    ValueError for maps of another D than the partition.
    """
    _checked(scores_or_map, partition.num_patches)
    found = recover_partition(scores_or_map, partition.num_sets, seed=seed)
    heads = found.reshape(-1, partition.num_patches).tolist()
    indices = torch.tensor([adjusted_rand_score(partition.labels.tolist(), labels) for labels in heads])
    return indices.item() if found.ndim == 1 else indices.reshape(found.shape[:-1])


def _checked(scores_or_map: Maps, num_patches: int) -> Maps:
    """The maps in float64, or ValueError where they are not square of that size, or not finite."""
    expected, shape = (num_patches, num_patches), tuple(scores_or_map.shape)
    if shape[-2:] != expected:
        raise ValueError(f"maps must be (..., {num_patches}, {num_patches}), got {shape}")
    if not scores_or_map.isfinite().all():
        raise ValueError("maps must be finite, got NaN or infinity")
    return scores_or_map.detach().double()


def own_share_of_largest(
    maps: Float[Tensor, "*heads D D"], own: Bool[Tensor, "D D"]
) -> Float[Tensor, "*heads D"]:
    """The share of each row's largest entries that ``own`` marks, as many as it marks in that row.

    In expectation over the order of tied entries; NaN where it marks none.
    """
    sizes = own.sum(-1)
    largest = maps.topk(int(sizes.max()), dim=-1).values
    threshold = largest.gather(-1, (sizes - 1).clamp(min=0)[:, None].expand(*maps.shape[:-1], 1))
    above, tied = maps > threshold, maps == threshold
    slots = sizes - above.sum(-1)
    return ((above & own).sum(-1) + slots * (tied & own).sum(-1) / tied.sum(-1)) / sizes


def as_attention(maps: Maps) -> Maps:
    """Row-stochastic maps as they are, anything else through the row-softmax."""
    sums = maps.sum(-1)
    if (maps >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return maps
    return torch.softmax(maps, dim=-1)

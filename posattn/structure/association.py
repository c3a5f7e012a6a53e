"""How well an attention map matches a partition of the patches.

Source: arXiv 2210.09221, the definition of patch association.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import SpectralClustering
from torch import Tensor

from posattn import checks
from posattn.shapes import Maps, Pairs
from posattn.structure.partition import Cover


class PatchAssociation(NamedTuple):
    """Patch association of one map (floats) or of a batch of maps (tensors of its leading shape)."""

    # mean over rows of the share of the C largest entries that are in the row's own set
    top_c: float | Tensor
    exact: float | Tensor  # share of the rows whose C largest entries are the own set
    mass: float | Tensor  # mean over rows of the attention inside the own set
    chance: float | Tensor  # mean of top_c over random orders of the entries off the diagonal


def patch_association(scores_or_map: Maps, partition: Cover) -> PatchAssociation:
    """Patch association: for every ℓ and i in S_ℓ, the C largest entries of row i are S_ℓ, C being the size of S_ℓ.

    Ties: ``top_c`` is the expectation over a random order of equal entries (a constant row scores C / D); a
    row is exact only if each entry of its own set is larger than every other. The entry of a row on the diagonal is
    a hit if it is among the C largest, with scores in any order: ``chance`` keeps it where it is. It is
    (1 + (C-1)²/(D-1))/C under a diagonal above all other entries, (C-1)/(D-1) under one below them. Patches in no
    set have no row.

    Args:
        scores_or_map: (..., D, D) scores A or maps S; each that is not row-stochastic is treated as scores,
            and its row-softmax gives the mass.
        partition: the sets, which may differ in size.

    Raises:
        ValueError: the maps are not square, not finite, or of another D than the partition, or sets overlap.
    """
    checks.of_type("partition", partition, Cover)
    partition = partition.as_partition("patch association")
    maps = _checked(scores_or_map, partition.num_patches)
    own, rows = partition.same.to(maps.device), (partition.labels >= 0).to(maps.device)
    inside = maps.masked_fill(~own, torch.inf).amin(-1)
    outside = maps.masked_fill(own, -torch.inf).amax(-1)
    among = among_largest(maps, own.sum(-1))
    attention = attention_of(scores_or_map)
    figures = (
        (among * own).sum(-1) / own.sum(-1),
        inside > outside,
        (attention * own).sum(-1),
        _chance(among, own),
    )
    means = [figure[..., rows].double().mean(-1) for figure in figures]
    return PatchAssociation(*(mean.item() if mean.ndim == 0 else mean for mean in means))


def _chance(among: Maps, own: Pairs) -> Float[Tensor, "*heads D"]:
    """The expected share of hits of each row with its off-diagonal entries in random order."""
    size, itself = own.sum(-1).to(among.dtype), among.diagonal(dim1=-2, dim2=-1)
    others = (size - 1) / max(1, len(own) - 1)  # the chance that another entry is a hit
    return (itself + (size - itself) * others) / size


def recover_partition(scores_or_map: Maps, num_sets: int, *, seed: int = 0) -> Int[Tensor, "*heads D"]:
    """The partition recovered from a map by clustering, as labels 0..L-1 of each patch.

    Spectral clustering (scikit-learn) of the graph whose edges are the mutual attention (S + Sᵀ)/2; the sets
    found may differ in size.

    Args:
        scores_or_map: (..., D, D) scores or maps, as in ``patch_association``; each is clustered by itself.
        num_sets: L, at most D.
        seed: of the search for the clusters.

    Raises:
        TypeError, ValueError: the maps are not square or not finite, or L is not in 1..D.
    """
    checks.of_type("maps", scores_or_map, Tensor)
    D = scores_or_map.shape[-1] if scores_or_map.ndim else 0
    _checked(scores_or_map, D)
    maps = attention_of(scores_or_map)
    if checks.positive_int("num_sets", num_sets) > D:
        raise ValueError(f"num_sets must be at most D = {D}, got {num_sets}")
    graphs = ((maps + maps.mT) / 2).reshape(-1, D, D).cpu().numpy()
    clustering = SpectralClustering(num_sets, affinity="precomputed", random_state=seed)
    # scikit-learn takes no single patch
    found = [clustering.fit_predict(graph) if D > 1 else [0] for graph in graphs]
    return torch.tensor(np.array(found), dtype=torch.long).reshape(scores_or_map.shape[:-1])


def _checked(scores_or_map: Maps, num_patches: int) -> Maps:
    """The maps in float64.

    Raises TypeError if they are no real tensor, ValueError if they are not square of that size, or not finite.
    """
    checks.of_type("maps", scores_or_map, Tensor)
    if scores_or_map.is_complex():
        raise TypeError(f"maps must be real, got {scores_or_map.dtype}")
    expected, shape = (num_patches, num_patches), tuple(scores_or_map.shape)
    if shape[-2:] != expected:
        raise ValueError(f"maps must be (..., {num_patches}, {num_patches}), got {shape}")
    if not scores_or_map.isfinite().all():
        raise ValueError("maps must be finite, got NaN or infinity")
    return scores_or_map.detach().double()


def own_share_of_largest(
    maps: Float[Tensor, "*heads Q D"], own: Bool[Tensor, "Q D"]
) -> Float[Tensor, "*heads Q"]:
    """For each row with k entries marked by ``own``, the share of its k largest entries that are marked.

    In expectation over the order of tied entries; NaN where it marks none.
    """
    sizes = own.sum(-1)
    most = int(sizes.max())
    largest = maps.topk(most, dim=-1).values
    threshold = largest.gather(-1, (sizes - 1).clamp(min=0)[:, None].expand(*maps.shape[:-1], 1))
    marked, place = own.to(torch.uint8).topk(most, dim=-1)  # of the few entries that count, not of all
    entries = maps.gather(-1, place.expand(*maps.shape[:-1], most))
    slots = (sizes - (largest > threshold).sum(-1)).to(maps.dtype) / (maps == threshold).sum(-1)
    above, tied = (((test & marked.bool()).sum(-1)) for test in (entries > threshold, entries == threshold))
    return (above + tied * slots) / sizes


def among_largest(maps: Float[Tensor, "*heads D D"], sizes: Int[Tensor, " D"]) -> Float[Tensor, "*heads D D"]:
    """The chance of each entry to be among the ``sizes`` largest of its row: 1, 0, or between where entries tie."""
    largest = maps.topk(int(sizes.max()), dim=-1).values
    threshold = largest.gather(-1, (sizes - 1).clamp(min=0)[:, None].expand(*maps.shape[:-1], 1))
    above, tied = maps > threshold, maps == threshold
    slots = (sizes - above.sum(-1)).to(maps.dtype) / tied.sum(-1)
    return torch.where(tied, slots[..., None], above.to(maps.dtype))


def attention_of(scores_or_map: Maps) -> Maps:
    """The maps in float64; of each map of a batch that is not attention, the row-softmax."""
    maps = scores_or_map.detach().double()
    given = is_attention(scores_or_map)[..., None, None]
    return torch.where(given, maps, torch.softmax(maps, dim=-1))


def is_attention(maps: Maps) -> Bool[Tensor, "*heads"]:
    """Whether every row of each map is a distribution, up to the rounding of the dtype of ``maps``."""
    rounding = torch.finfo(maps.dtype).eps if maps.is_floating_point() else 0.0
    apart = (maps.double().sum(-1) - 1).abs()
    return (maps >= 0).all(-1).all(-1) & (apart <= max(1e-4, rounding)).all(-1)

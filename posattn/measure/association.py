"""How much of the hidden structure an attention map holds.

Source: arXiv 2210.09221, the definition of patch association.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posattn.data.structured import Partition
from posattn.shapes import Maps


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
    D, C = partition.num_patches, partition.set_size
    if scores_or_map.ndim < 2 or tuple(scores_or_map.shape[-2:]) != (D, D):
        raise ValueError(f"maps must be (..., {D}, {D}) for {partition}, got {tuple(scores_or_map.shape)}")
    if not scores_or_map.isfinite().all():
        raise ValueError("maps must be finite, got NaN or infinity")
    maps = scores_or_map.detach().double()
    own = partition.same.to(maps.device)
    share = own_share_of_largest(maps, own, C)
    inside = maps.masked_fill(~own, torch.inf).amin(-1)
    outside = maps.masked_fill(own, -torch.inf).amax(-1)
    rows = (share, inside > outside, (as_attention(maps) * own).sum(-1))
    means = [figure.double().mean(-1) for figure in rows]
    top_c, exact, mass = [mean.item() if mean.ndim == 0 else mean for mean in means]
    return PatchAssociation(top_c, exact, mass, C / D)


def own_share_of_largest(
    maps: Float[Tensor, "*heads D D"], own: Bool[Tensor, "D D"], count: int
) -> Float[Tensor, "*heads D"]:
    """The share of each row's ``count`` largest entries that ``own`` marks, in expectation over tied ones."""
    threshold = maps.topk(count, dim=-1).values[..., -1:]
    above, tied = maps > threshold, maps == threshold
    slots = count - above.sum(-1)
    return ((above & own).sum(-1) + slots * (tied & own).sum(-1) / tied.sum(-1)) / count


def as_attention(maps: Maps) -> Maps:
    """Row-stochastic maps as they are, anything else through the row-softmax."""
    sums = maps.sum(-1)
    if (maps >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return maps
    return torch.softmax(maps, dim=-1)

"""Distance between attention maps."""

from jaxtyping import Float
from torch import Tensor


def total_variation(
    maps: Float[Tensor, "*heads Q D"], truth: Float[Tensor, "_ _"]
) -> Float[Tensor, "*heads Q"]:
    """``½ Σ_j |S_ij - S*_ij|`` of each row i: 0 equal, 1 disjoint. Raises ValueError if the shapes differ."""
    if maps.shape[-2:] != truth.shape:
        raise ValueError(f"maps must be (..., {', '.join(map(str, truth.shape))}), got {tuple(maps.shape)}")
    return (maps - truth).abs().sum(-1) / 2

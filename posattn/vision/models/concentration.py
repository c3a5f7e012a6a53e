"""Concentration of attention maps."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from posattn import checks


def top_mass(maps: Float[Tensor, "layers h N N"], keeps: Sequence[int]) -> Float[Tensor, "layers k"]:
    """The mass of a row's k largest entries, averaged over rows and heads, for each k of ``keeps``.

    Raises ValueError if a k is not in 1..N.
    """
    N = maps.shape[-1]
    for k in keeps:
        if checks.positive_int("keeps", k) > N:
            raise ValueError(f"keeps must be at most N={N}, got {k}")
    gathered = maps.sort(-1, descending=True).values.cumsum(-1)
    return gathered.mean((1, 2))[:, [k - 1 for k in keeps]]

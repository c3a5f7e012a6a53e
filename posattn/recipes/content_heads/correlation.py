"""Whether positionality predicts what the conversion of a head costs."""

import math
import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any

from scipy.stats import bootstrap, spearmanr

Need = dict[str, Any]


def rank_correlation(seeds: Sequence[dict[str, list[Need]]], cost: str) -> dict[str, Any]:
    """Spearman's ρ of the heads' positionality with what they cost in testing.

    Args:
        seeds: the ``ranked`` heads of each.
        cost: ``drop`` of accuracy or increase of ``loss``.

    Returns:
        ``all`` heads of all seeds, with the ``low`` and ``high`` end of its 95 % interval; ``by_seed``;
        ``by_block``, over the heads of a block in all seeds.
    """
    by_seed = [pairs(one["ranked"], cost) for one in seeds]
    heads = list(chain.from_iterable(one["ranked"] for one in seeds))
    x, y = pairs(heads, cost)
    low, high = interval(x, y)
    return {
        "all": spearman(x, y),
        "low": low,
        "high": high,
        "by_seed": [spearman(*pair) for pair in by_seed],
        "by_block": [
            spearman(*pairs([need for need in heads if need["block"] == block], cost))
            for block in sorted({need["block"] for need in heads})
        ],
    }


def interval(x: list[float], y: list[float]) -> tuple[float | None, float | None]:
    """The ends of the 95 % interval of Spearman's ρ, by bootstrap over heads.

    None where an end is unknown: of fewer than two heads, of heads that are all alike, of perfect ranks.
    """
    if len(x) < 2:
        return None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, where an end is NaN
        found = bootstrap((x, y), spearman, paired=True, vectorized=False, n_resamples=2000, rng=0)
    low, high = (float(end) if math.isfinite(end) else None for end in found.confidence_interval)
    return low, high


def pairs(heads: Sequence[Need], cost: str) -> tuple[list[float], list[float]]:
    """Positionality and cost of the heads."""
    return [need["positionality"] for need in heads], [need[f"test_{cost}"] for need in heads]


def spearman(x: Any, y: Any) -> float:
    """Spearman's ρ; 0 where either is constant."""
    return float(spearmanr(x, y).statistic) if min(len(set(x)), len(set(y))) > 1 else 0.0

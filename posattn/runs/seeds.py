"""Mean and spread over seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 where there is a single value. ValueError where there is none."""
    if not values:
        raise ValueError("no values to average")
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def mean_std_text(values: Sequence[float], digits: int = 3, factor: float = 1.0) -> str:
    """``mean ± std`` of the values times ``factor``."""
    mean, std = mean_std(values)
    return f"{factor * mean:.{digits}f} ± {factor * std:.{digits}f}"

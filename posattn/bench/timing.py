"""Timings side by side: the machine's noise falls on all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import quantiles
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Median and quartiles of repeated timings, in seconds (or of what is made of them)."""

    median: float
    low: float
    high: float


def interleaved(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, the works taking turns for ``rounds`` rounds after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> Spread:
    """Median and quartiles. ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"a spread needs at least two values, got {len(values)}")
    low, median, high = quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)

"""Interleaved timings, so that noise of the machine affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Quartiles(NamedTuple):
    """Median and quartiles of repeated timings in seconds, or of values computed from them."""

    median: float
    low: float
    high: float


def interleaved(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call: all works are called once per round, for ``rounds`` rounds after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def quartiles(values: list[float]) -> Quartiles:
    """Median and quartiles. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"quartiles need at least two values, got {len(values)}")
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, low, high)

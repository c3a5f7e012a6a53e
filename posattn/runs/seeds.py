"""Mean and standard deviation over seeds, of numbers and of whole trees of numbers."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 where there is a single value. Raises ValueError if there is none."""
    if not values:
        raise ValueError("no values to average")
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def mean_std_text(values: Sequence[float], digits: int = 3, factor: float = 1.0) -> str:
    """``mean ± std`` of the values times ``factor``; of a single value no ``std``, which is not known."""
    mean, std = mean_std(values)
    spread = f" ± {factor * std:.{digits}f}" if len(values) > 1 else ""
    return f"{factor * mean:.{digits}f}{spread}"


def count_text(count: int, what: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {what}{'s' * (count != 1)}"


def averaged_text(what: str, seeds: int) -> str:
    """``what``, such as "Mean ± std", over so many seeds; "One seed", in the same case, of one."""
    if seeds > 1:
        return f"{what} over {seeds} seeds"
    return "One seed" if what[0].isupper() else "one seed"


def collect(trees: Sequence[Any]) -> Any:
    """Equal trees (dicts and lists of numbers), one per seed, as one tree with a list over the seeds at each leaf."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: collect([tree[name] for tree in trees]) for name in first}
    if isinstance(first, list):
        return [collect(items) for items in zip(*trees, strict=True)]
    return list(trees)


def over_seeds(ones: Sequence[Any]) -> dict[str, Any]:
    """``mean`` and ``std`` of equal trees (dicts and lists of numbers), one tree per seed.

    ``over_seeds([{"loss": [1.0, 2.0]}, {"loss": [3.0, 2.0]}])["mean"]`` is ``{"loss": [2.0, 2.0]}``.

    Raises:
        ValueError: there are no seeds, or their trees differ in keys or lengths.
    """
    if not ones:
        raise ValueError("no seeds to average")
    first = ones[0]
    if isinstance(first, dict):
        if any(one.keys() != first.keys() for one in ones):
            raise ValueError(f"seeds hold different names: {sorted(first)} and others")
        parts = {name: over_seeds([one[name] for one in ones]) for name in first}
        return {what: {name: part[what] for name, part in parts.items()} for what in ("mean", "std")}
    if isinstance(first, list | tuple):
        items = [over_seeds(column) for column in zip(*ones, strict=True)]
        return {what: [item[what] for item in items] for what in ("mean", "std")}
    mean, std = mean_std(ones)
    return {"mean": mean, "std": std}

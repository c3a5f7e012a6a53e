"""How far other models are ahead of the original, at equal epochs and at equal time, paired by seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from posattn.recipes.kit.settings import ORIGINAL
from posattn.runs.seeds import mean_std, over_seeds

Numbers = dict[str, Any]
LEVEL = 0.95  # of the intervals
EARLY = 0.1  # of the epochs: where the early lead is read


def gaps(seeds: Sequence[dict[str, Numbers]]) -> Numbers:
    """For each model beside the original, accuracy minus the original's, in points; empty without the original.

    Args:
        seeds: for each seed, by model, what ``fit`` returns.

    Returns:
        By model: ``epochs``, mean and std after each epoch; ``time``, the same at the ``seconds`` of its epochs, where
        both models of every seed have tests; ``early`` (after a tenth of the epochs, ``early_epoch``), ``final`` and
        ``at_time`` (when the quicker of the two has finished; None if the other has not been tested by then): what
        ``estimate`` returns. ``time`` and ``at_time`` are None where seconds are of several clocks.
    """
    names = [name for name in seeds[0] if name != ORIGINAL and ORIGINAL in seeds[0]]
    return {name: gap([(one[name], one[ORIGINAL]) for one in seeds]) for name in names}


def gap(pairs: Sequence[tuple[Numbers, Numbers]]) -> Numbers:
    """``gaps`` of one model; each pair is of one seed."""
    by_epoch = [points(ours["accuracy"], theirs["accuracy"]) for ours, theirs in pairs]
    early = max(1, round(EARLY * len(by_epoch[0]))) - 1
    one_clock = len({run.get("clock", "wall") for pair in pairs for run in pair}) == 1  # older runs have none
    common = common_seconds(pairs) if one_clock else []
    ends = [min(run["elapsed"][-1] for run in pair) for pair in pairs]
    tested = one_clock and all(
        end >= run["elapsed"][0] for end, pair in zip(ends, pairs, strict=True) for run in pair
    )
    return {
        "epochs": over_seeds(by_epoch),
        "time": {"seconds": common, **over_seeds([at_seconds(pair, common) for pair in pairs])}
        if common
        else None,
        "early_epoch": early + 1,
        "early": estimate([line[early] for line in by_epoch]),
        "final": estimate([line[-1] for line in by_epoch]),
        "at_time": estimate([at_seconds(pair, [end])[0] for pair, end in zip(pairs, ends, strict=True)])
        if tested
        else None,
    }


def points(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Differences in percentage points."""
    return [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]


def common_seconds(pairs: Sequence[tuple[Numbers, Numbers]]) -> list[float]:
    """Where every training has a test before and after: its ends, and the mean seconds of our epochs between them."""
    runs = [run["elapsed"] for pair in pairs for run in pair]
    start, end = max(run[0] for run in runs), min(run[-1] for run in runs)
    own = over_seeds([ours["elapsed"] for ours, _ in pairs])["mean"]
    return sorted({start, end, *(second for second in own if start < second < end)}) if start <= end else []


def at_seconds(pair: tuple[Numbers, Numbers], seconds: Sequence[float]) -> list[float]:
    """The gap at these seconds, with accuracy linear between epochs."""
    ours, theirs = (np.interp(seconds, run["elapsed"], run["accuracy"]).tolist() for run in pair)
    return points(ours, theirs)


def estimate(values: Sequence[float]) -> Numbers:
    """Mean of paired differences and half the width of its 95 % confidence interval (Student); None for one seed."""
    mean, std = mean_std(values)
    n = len(values)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * std / n**0.5 if n > 1 else None
    return {"values": list(values), "mean": mean, "half": half}

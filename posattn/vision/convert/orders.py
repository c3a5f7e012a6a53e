"""Orders of conversion, the cost of each share of the heads, and how many a budget allows."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from posattn.vision.convert.averages import MapStatistics
from posattn.vision.convert.needs import Kept, Losses, Unit, choice_of, losses
from posattn.vision.convert.quality import COSINE, DIVERGENCE, Quality
from posattn.vision.convert.reruns import Advance, Subject, outputs_of_choices

ALONE, GREEDY, POSITIONALITY, VARIATION, RANDOM = (
    "one at a time",
    "greedy",
    "positionality",
    "variation over images",
    "random",
)


class Point(NamedTuple):
    """A conversion of the first units of an order."""

    units: int
    heads: int
    losses: Losses
    kept: dict[str, float]  # of each metric, what a budget bounds


def cost(found: Losses, metric: str) -> tuple[float, float]:
    """Sort key of an order: the loss of the metric, then the divergence or the cosine."""
    return found[metric].mean, found.get(DIVERGENCE, found[COSINE]).mean


def by_cost(units: Sequence[Unit], alone: Sequence[Losses], metric: str) -> list[Unit]:
    """The cheapest to convert alone first."""
    return [units[i] for i in sorted(range(len(units)), key=lambda i: cost(alone[i], metric))]


def by_statistic(units: Sequence[Unit], found: Mapping[int, MapStatistics], name: str) -> list[Unit]:
    """The most positional first, or those whose maps vary least over images (the mean over the heads of a unit).

    The latter approximates the criterion of arXiv 2605.22132, which converts the heads of least variation over images,
    as its abstract says; the variation here is the variance, summed over the entries of a map.
    """
    sign = -1 if name == POSITIONALITY else 1

    def value(unit: Unit) -> float:
        of_block = found[unit.block]
        values = of_block.positionality if name == POSITIONALITY else of_block.variation
        return sign * values[list(unit.heads)].mean().item()

    return sorted(units, key=value)


def at_random(units: Sequence[Unit], seed: int) -> list[Unit]:
    """A random order."""
    order = list(units)
    random.Random(seed).shuffle(order)
    return order


class Greedy(NamedTuple):
    """A partial order: the converted units, and the last known cost of each remaining unit."""

    done: list[Unit]
    known: list[tuple[Unit, tuple[float, float]]]


def greedy_start(units: Sequence[Unit], alone: Sequence[Losses], metric: str) -> Greedy:
    """Nothing is converted, and the costs are those of each unit alone."""
    return Greedy([], [(unit, cost(found, metric)) for unit, found in zip(units, alone, strict=True)])


def greedy_step(
    state: Greedy,
    subject: Subject,
    kept: Kept,
    quality: Quality,
    batches: Sequence[Tensor],
    metric: str,
    *,
    width: int = 8,
    step: int = 1,
    advance: Advance = lambda _: None,
) -> Greedy:
    """Measure the remaining units of lowest known cost again, on top of those converted, and convert the cheapest.

    Args:
        state: of ``greedy_start``, or of the step before.
        subject: the model and the maps of its heads.
        kept: how each head is kept.
        quality: of the original's outputs on the same images.
        batches: images as the model takes them.
        metric: the measure of the cost.
        width: how many units are measured.
        step: how many of them are then converted.
        advance: called after each unit has run over a batch.
    """
    known = dict(state.known)
    tried = sorted(known, key=known.__getitem__)[:width]
    base = choice_of(state.done, kept)
    choices = [{}, *({unit.block: choice_of([*state.done, unit], kept)[unit.block]} for unit in tried)]
    found = outputs_of_choices(subject, choices, batches, base, advance)
    before, *after = (cost(losses(quality, quality.of(one)), metric) for one in found)
    for unit, costs in zip(tried, after, strict=True):
        known[unit] = (costs[0] - before[0], costs[1] - before[1])
    chosen = sorted(tried, key=known.__getitem__)[:step]
    return Greedy([*state.done, *chosen], [(unit, c) for unit, c in known.items() if unit not in chosen])


def curve(
    subject: Subject,
    order: Sequence[Unit],
    counts: Sequence[int],
    kept: Kept,
    quality: Quality,
    batches: Sequence[Tensor],
    advance: Advance = lambda _: None,
) -> list[Point]:
    """The cost of converting the first units of an order, for each of ``counts``."""
    choices = [choice_of(order[:count], kept) for count in counts]
    points = []
    for count, one in zip(
        counts, outputs_of_choices(subject, choices, batches, advance=advance), strict=True
    ):
        found = quality.of(one)
        shares = {metric: quality.kept(found, metric) for metric in found}
        heads = sum(len(unit.heads) for unit in order[:count])
        points.append(Point(count, heads, losses(quality, found), shares))
    return points


def counts_of(total: int, points: int) -> list[int]:
    """From none to all in so many steps, evenly."""
    return sorted({round(total * i / points) for i in range(points + 1)})


def within_budget(points: Sequence[Point], metric: str, budget: float) -> Point | None:
    """The largest conversion that keeps at least ``budget`` of the metric; None if none does."""
    good = [point for point in points if point.kept[metric] >= budget]
    return max(good, key=lambda point: point.heads, default=None)

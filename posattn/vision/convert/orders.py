"""In which order to convert heads, what each share of them costs, and how many a budget allows."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from posattn.vision.convert.maps import MapStatistics
from posattn.vision.convert.needs import Kept, Losses, Unit, choice_of, losses
from posattn.vision.convert.quality import COSINE, DIVERGENCE, Quality
from posattn.vision.convert.reruns import Advance, Subject, outputs_of_choices

ALONE, GREEDY, POSITIONALITY, VARIATION, RANDOM = ORDERS = (
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
    """What an order sorts by: the loss of the metric, equal ones by the divergence, else by the cosine."""
    return found[metric].mean, found.get(DIVERGENCE, found[COSINE]).mean


def by_cost(units: Sequence[Unit], alone: Sequence[Losses], metric: str) -> list[Unit]:
    """The cheapest to convert alone first."""
    return [units[i] for i in sorted(range(len(units)), key=lambda i: cost(alone[i], metric))]


def by_statistic(units: Sequence[Unit], found: Mapping[int, MapStatistics], name: str) -> list[Unit]:
    """The most positional first, or those whose maps vary least over images (the mean over the heads of a unit).

    Source of the latter criterion: arXiv 2605.22132, which converts the heads of least variation over images.
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


def greedy(
    subject: Subject,
    units: Sequence[Unit],
    alone: Sequence[Losses],
    kept: Kept,
    quality: Quality,
    batches: Sequence[Tensor],
    metric: str,
    *,
    width: int = 8,
    step: int = 1,
    advance: Advance = lambda _: None,
) -> Iterator[list[Unit]]:
    """An order that measures again: on top of what is converted, the units of least last known cost are measured,
    and the cheapest of them come next.

    Args:
        subject: the model and the maps of its heads.
        units: what to order.
        alone: the losses of each unit alone.
        kept: how each head is kept.
        quality: of the original's outputs on the same images.
        batches: images as the model takes them.
        metric: the measure of the cost.
        width: how many units are measured at each step.
        step: how many of them are then converted.
        advance: called after each unit has run over a batch.

    Yields:
        The order so far, after each step.
    """
    done: list[Unit] = []
    known = {unit: cost(found, metric) for unit, found in zip(units, alone, strict=True)}
    while known:
        tried = sorted(known, key=known.__getitem__)[:width]
        base = choice_of(done, kept)
        choices = [{}, *({unit.block: choice_of([*done, unit], kept)[unit.block]} for unit in tried)]
        found = outputs_of_choices(subject, choices, batches, base, advance)
        before, *costs = (cost(losses(quality, quality.of(one)), metric) for one in found)
        known.update(
            {
                unit: (after[0] - before[0], after[1] - before[1])
                for unit, after in zip(tried, costs, strict=True)
            }
        )
        for unit in sorted(tried, key=known.__getitem__)[:step]:
            done.append(unit)
            del known[unit]
        yield list(done)


def curve(
    subject: Subject,
    order: Sequence[Unit],
    counts: Sequence[int],
    kept: Kept,
    quality: Quality,
    batches: Sequence[Tensor],
    advance: Advance = lambda _: None,
) -> list[Point]:
    """What the conversion of the first units of an order costs, for each of ``counts``."""
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
    """The largest conversion that keeps at least ``budget`` of the metric; None where none does."""
    good = [point for point in points if point.kept[metric] >= budget]
    return max(good, key=lambda point: point.heads, default=None)

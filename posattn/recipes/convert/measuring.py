"""The measurements of a conversion, each a unit of the run: heads alone, orders, curves, and the choice of heads."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.progress import Progress

from posattn.recipes.convert.plan import Plan
from posattn.recipes.convert.settings import DEFAULT_BUDGET, ConvertConfig, share_of
from posattn.runs.folder import RunFolder
from posattn.vision.convert.needs import Head, Kept, Losses, Unit, losses_alone
from posattn.vision.convert.orders import (
    ALONE,
    GREEDY,
    POSITIONALITY,
    RANDOM,
    VARIATION,
    Greedy,
    Point,
    at_random,
    by_cost,
    by_statistic,
    counts_of,
    curve,
    greedy_start,
    greedy_step,
    within_budget,
)
from posattn.vision.convert.quality import Estimate


def every_kept(plan: Plan, kind: str) -> dict[Head, str]:
    """All heads with one kind."""
    return {(unit.block, head): kind for unit in plan.units for head in unit.heads}


def measured_alone(
    config: ConvertConfig, plan: Plan, kind: str, run: RunFolder, progress: Progress
) -> list[Losses]:
    """The loss when each unit alone is converted to one kind."""
    advance = counter(
        progress, f"convert: each {config.by} as {kind}", len(plan.units) * len(plan.ranking.batches)
    )
    kept = every_kept(plan, kind)
    compute = partial(
        losses_alone, plan.subject, plan.units, kept, plan.ranking.quality, plan.ranking.batches, advance
    )
    return [losses_from(one) for one in run.unit(f"alone as {kind}", compute)]


def counter(progress: Progress, description: str, total: int) -> Callable[[int], None]:
    """A function that advances a new progress bar."""
    task = progress.add_task(description, total=total)
    return lambda count: progress.advance(task, count)


def orders_of(
    config: ConvertConfig, plan: Plan, alone: list[Losses], kept: Kept, run: RunFolder, progress: Progress
) -> dict[str, list[Unit]]:
    """The orders to compare."""
    orders = {
        ALONE: by_cost(plan.units, alone, plan.metric),
        GREEDY: greedy_order(config, plan, alone, kept, run, progress),
        POSITIONALITY: by_statistic(plan.units, plan.statistics, POSITIONALITY),
        VARIATION: by_statistic(plan.units, plan.statistics, VARIATION),
    }
    for number in range(config.random_orders):
        orders[f"{RANDOM} {number + 1}"] = at_random(plan.units, config.seed + number)
    return orders


def greedy_order(
    config: ConvertConfig, plan: Plan, alone: list[Losses], kept: Kept, run: RunFolder, progress: Progress
) -> list[Unit]:
    """The order that measures again; each step is a unit of the run."""
    state, number = greedy_start(plan.units, alone, plan.metric), 0
    step = -(-len(plan.units) // config.steps)
    task = progress.add_task("convert: greedy order", total=len(plan.units))
    while state.known:
        one = partial(
            greedy_step,
            state,
            plan.subject,
            kept,
            plan.ranking.quality,
            plan.ranking.batches,
            plan.metric,
            width=max(config.width, 2 * step),
            step=step,
        )
        state, number = greedy_from(run.unit(f"greedy step {number}", one)), number + 1
        progress.update(task, completed=len(state.done))
    return state.done


def traced(
    config: ConvertConfig,
    plan: Plan,
    name: str,
    order: list[Unit],
    kept: Kept,
    run: RunFolder,
    progress: Progress,
) -> list[Point]:
    """The curve of an order on the measured pictures."""
    counts = counts_of(len(order), config.points)
    return points_at(plan, name, order, counts, kept, run, progress)


def points_at(
    plan: Plan,
    name: str,
    order: list[Unit],
    counts: list[int],
    kept: Kept,
    run: RunFolder,
    progress: Progress | None,
) -> list[Point]:
    """Points of an order, a unit of the run."""
    total = len(counts) * len(plan.measured.batches)
    advance = counter(progress, f"convert: curve, {name}", total) if progress else lambda _: None
    batches, quality = plan.measured
    compute = partial(curve, plan.subject, order, counts, kept, quality, batches, advance)
    label = f"curve {name} at {','.join(map(str, counts))}"
    return [point_from(one) for one in run.unit(label, compute)]


def chosen(
    config: ConvertConfig,
    plan: Plan,
    orders: dict[str, list[Unit]],
    curves: dict[str, list[Point]],
    kept: Kept,
    run: RunFolder,
) -> tuple[str, Point]:
    """The conversion to make, and the order it is of: of those that measure, the one that is better there.

    Raises ValueError if nothing can be converted within the budget.
    """
    found: list[tuple[str, Point]] = []
    budget = DEFAULT_BUDGET if config.budget is None else config.budget
    for name in (ALONE, GREEDY):
        if config.heads is not None:
            count = max(1, round(share_of(config.heads) * len(orders[name])))
            found.append((name, points_at(plan, name, orders[name], [count], kept, run, None)[0]))
            continue
        point = within_budget(curves[name], plan.metric, budget)
        if point is not None:
            beyond = min((p.units for p in curves[name] if p.units > point.units), default=point.units)
            between = list(range(point.units + 1, beyond))
            more = points_at(plan, name, orders[name], between, kept, run, None) if between else []
            found.append((name, within_budget([point, *more], plan.metric, budget) or point))
    best = max(found, key=lambda one: (one[1].heads, one[1].kept[plan.metric]), default=None)
    if best is None or best[1].heads == 0:
        raise ValueError(f"no {config.by} can be converted within --budget {budget} of {plan.metric}")
    return best


def losses_from(stored: dict[str, Any]) -> Losses:
    """Losses as a unit of the run holds them."""
    return {metric: Estimate(*value) for metric, value in stored.items()}


def unit_from(stored: Any) -> Unit:
    """A unit as JSON keeps it."""
    return Unit(stored[0], tuple(stored[1]))


def greedy_from(stored: Any) -> Greedy:
    """A greedy order as JSON keeps it."""
    return Greedy([unit_from(u) for u in stored[0]], [(unit_from(u), tuple(c)) for u, c in stored[1]])


def point_from(stored: Any) -> Point:
    """A point of a curve as JSON keeps it."""
    return Point(stored[0], stored[1], losses_from(stored[2]), stored[3])

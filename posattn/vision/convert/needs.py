"""The cost of converting each head of a trained ViT alone, and the best kind for each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from posattn.vision.convert.quality import Estimate, Quality, estimate, loss
from posattn.vision.convert.reruns import Advance, Subject, outputs_of_choices

Head = tuple[int, int]  # block, head


class Unit(NamedTuple):
    """Heads of a block that are converted together."""

    block: int
    heads: tuple[int, ...]


Losses = dict[str, Estimate]  # by metric, over images
Kept = Mapping[Head, str]  # how each head is kept


def units_of(subject: Subject, by: str) -> list[Unit]:
    """Every head, or all heads of each block (``by``: head or block)."""
    counts = {number: len(maps) for number, maps in next(iter(subject.maps.values())).items()}
    if by == "block":
        return [Unit(number, tuple(range(count))) for number, count in counts.items()]
    return [Unit(number, (head,)) for number, count in counts.items() for head in range(count)]


def choice_of(units: Sequence[Unit], kept: Kept) -> dict[int, dict[int, str]]:
    """The heads of some units by block, each with how it is kept."""
    chosen: dict[int, dict[int, str]] = {}
    for unit in units:
        chosen.setdefault(unit.block, {}).update({head: kept[unit.block, head] for head in unit.heads})
    return chosen


def losses(quality: Quality, found: Mapping[str, Tensor]) -> Losses:
    """The loss of a change by each measure."""
    return {metric: estimate(loss(found, quality.before, metric)) for metric in found}


def losses_alone(
    subject: Subject,
    units: Sequence[Unit],
    kept: Kept,
    quality: Quality,
    batches: Sequence[Tensor],
    advance: Advance = lambda _: None,
) -> list[Losses]:
    """The loss when each unit alone is converted.

    Args:
        subject: the model and the maps of its heads.
        units: what is converted, one at a time.
        kept: how each head is kept.
        quality: of the original's outputs on the same images.
        batches: images as the model takes them.
        advance: called after each unit has run over a batch.
    """
    choices = [choice_of([unit], kept) for unit in units]
    found = outputs_of_choices(subject, choices, batches, advance=advance)
    return [losses(quality, quality.of(one)) for one in found]


def best_kept(
    units: Sequence[Unit],
    alone: Mapping[str, Sequence[Losses]],
    seconds: Mapping[str, float],
    metric: str,
    tolerance: float,
) -> dict[Head, str]:
    """The kind of each head: the fastest whose loss is close to the smallest.

    Args:
        units: what was measured.
        alone: of each kind, the losses of each unit alone.
        seconds: of each kind, how long an attention layer takes whose heads are all kept so.
        metric: the measure of the losses.
        tolerance: how much larger than the smallest a loss may be, relative to it; within the standard error of a
            loss every kind counts as good as the best.
    """
    kept: dict[Head, str] = {}
    for number, unit in enumerate(units):
        found = {kind: of_kind[number][metric] for kind, of_kind in alone.items()}
        least = min(found.values(), key=lambda one: one.mean)
        bound = least.mean + max(tolerance * abs(least.mean), least.stderr)
        good = [kind for kind, one in found.items() if one.mean <= bound]
        kept.update(
            dict.fromkeys(((unit.block, head) for head in unit.heads), min(good, key=seconds.__getitem__))
        )
    return kept

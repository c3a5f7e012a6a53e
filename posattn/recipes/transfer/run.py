"""Sample complexity of the downstream task: accuracy against N, and the N needed against D."""

from bisect import bisect_left
from collections.abc import Callable
from statistics import geometric_mean
from typing import Any

from rich.progress import Progress

from posattn.recipes.transfer import page
from posattn.recipes.transfer.curves import WAYS, WITHOUT, Lesson, transfer_curves, transfer_section
from posattn.recipes.transfer.settings import NeededConfig, TransferConfig, TransferStudyConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import collect
from posattn.runs.sweep import sweep_seeds


def run(config: TransferStudyConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The curves, then the samples needed."""
    curves = transfer_curves(config.curves, config.seed, run, progress, (*WAYS, *WITHOUT))
    needed = needed_samples(config, run, progress)
    sections = [transfer_section(curves), page.without_section(curves), page.needed_section(config, needed)]
    return {
        "title": "Learned structure transfers from few samples",
        "summary": "A task with the same partition and another feature, learned with the attention of the first task, "
        "without it, and with attention that is held without the structure.",
        "transfer": curves,
        "needed": needed,
        "page": to_plain(sections),
    }


def needed_samples(config: TransferStudyConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The N needed each way, of every D and seed; None if the largest that was tried is too few."""
    needed = config.needed
    seeds = range(config.seed, config.seed + needed.seeds)
    longest_first = sorted(needed.num_patches, reverse=True)
    arms = {f"D={D}": (config.at_patches(D), needed) for D in longest_first}
    found = sweep_seeds("needed", arms, seeds, samples_needed, run, progress)
    by_patches = [collect(found[f"D={D}"]) for D in needed.num_patches]
    samples = {way: [one[way] for one in by_patches] for way in WAYS}
    return {
        "num_patches": list(needed.num_patches),
        "samples": samples,
        "mean": {way: [mean_reached(row) for row in rows] for way, rows in samples.items()},
        "upstream": [one["upstream"] for one in by_patches],
    }


def samples_needed(config: TransferConfig, needed: NeededConfig, seed: int) -> dict[str, float | None]:
    """The least N at which each way reaches the target, and the accuracy upstream."""
    lesson = Lesson(config, seed)

    def least(way: str) -> float | None:
        return least_samples(lambda size: next(lesson.accuracies(size, (way,))), needed)

    return {**{way: least(way) for way in WAYS}, "upstream": lesson.accuracy}


def least_samples(accuracy: Callable[[int], float], needed: NeededConfig) -> float | None:
    """The least N at which the accuracy after training on N samples reaches the target; None if it does not.

    Found by bisection among powers of 2, then linear in log N between the last below the target and the first
    that reached it.
    """
    found: dict[int, float] = {}

    def reached(exponent: int) -> bool:
        found[exponent] = accuracy(2**exponent)
        return found[exponent] >= needed.target

    exponents = range(needed.most.bit_length())
    first = bisect_left(exponents, True, key=reached)
    if first == len(exponents):
        return None
    if first == 0:
        return 1.0
    below, above = found[first - 1], found[first]
    return 2.0 ** (first - 1 + (needed.target - below) / (above - below))


def mean_reached(samples: list[float | None]) -> float | None:
    """The geometric mean over seeds; None where one of them did not reach the target."""
    reached = [n for n in samples if n is not None]
    return geometric_mean(reached) if len(reached) == len(samples) else None

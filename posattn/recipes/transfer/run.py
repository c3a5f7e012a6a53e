"""Sample complexity of the downstream task: accuracy against N, and the N needed against D."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

from rich.progress import Progress

from posattn import checks
from posattn.recipes.transfer import page
from posattn.recipes.transfer.curves import DENIED, WAYS, Lesson, transfer_curves, transfer_section
from posattn.recipes.transfer.settings import NeededConfig, TransferConfig, TransferStudyConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.sweep import sweep


def run(config: TransferStudyConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The curves, then the samples needed."""
    for num_patches in config.needed.num_patches:  # checked before anything is trained
        checks.probability("noise_rate", at_patches(config, num_patches).noise_rate)
    if math.log2(config.needed.most) % 1:
        raise ValueError(f"--needed.most must be a power of 2, got {config.needed.most}")
    curves = transfer_curves(config.curves, config.seed, run, progress, (*WAYS, *DENIED))
    needed = needed_samples(config, run, progress)
    return {
        "title": "Learned structure transfers from few samples",
        "summary": "A task with the same partition and another feature, learned with the attention of the first task, "
        "without it, and with an attention that is held away from the structure.",
        "transfer": curves,
        "needed": needed,
        "page": to_plain(
            [transfer_section(curves), page.denied_section(curves), page.needed_section(config, needed)]
        ),
    }


def at_patches(config: TransferStudyConfig, num_patches: int) -> TransferConfig:
    """The setting of the curves at another D, with as many noisy patches."""
    base, needed = config.curves, config.needed
    return replace(
        base,
        num_patches=num_patches,
        noise_rate=base.noise_rate * base.num_patches / num_patches,
        steps=max(base.steps, round(needed.steps_per_patch * num_patches)),
    )


def needed_samples(config: TransferStudyConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The N needed each way, of every D and seed; None if the largest that was tried is too few."""
    needed = config.needed
    seeds = range(config.seed, config.seed + needed.seeds)
    largest_first = sorted(needed.num_patches, reverse=True)
    settings = {f"D={D}/seed={s}": (at_patches(config, D), needed, s) for D in largest_first for s in seeds}
    found = sweep("needed", settings, samples_needed, run, progress)
    table = {
        what: [[found[f"D={D}/seed={s}"][what] for s in seeds] for D in needed.num_patches]
        for what in (*WAYS, "upstream")
    }
    upstream = table.pop("upstream")
    means = {way: [mean_reached(row) for row in rows] for way, rows in table.items()}
    return {
        "num_patches": list(needed.num_patches),
        "samples": table,
        "mean": means,
        "upstream": upstream,
    }


def samples_needed(config: TransferConfig, needed: NeededConfig, seed: int) -> dict[str, float | None]:
    """The least N at which each way reaches the target, and the accuracy upstream."""
    lesson = Lesson(config, seed)
    least = {
        way: least_samples(lambda n, way=way: next(lesson.accuracies(n, (way,))), needed)  # type: ignore[misc]
        for way in WAYS
    }
    return {**least, "upstream": lesson.accuracy}


def least_samples(accuracy: Callable[[int], float], needed: NeededConfig) -> float | None:
    """The least N at which the accuracy after training on N samples reaches the target; None if it does not.

    Found by bisection among powers of 2, then linear in log N between the last below the target and the first
    that reached it.
    """
    found: dict[int, float] = {}

    def reached(exponent: int) -> bool:
        found[exponent] = accuracy(2**exponent)
        return found[exponent] >= needed.target

    exponents = range(int(math.log2(needed.most)) + 1)
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

"""Sample complexity of the downstream task: accuracy against N, and the N needed against D."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

from rich.progress import Progress

from posattn import checks
from posattn.recipes.transfer.curves import FROZEN, SCRATCH, WAYS, Lesson, transfer_curves, transfer_section
from posattn.recipes.transfer.settings import NeededConfig, TransferConfig, TransferStudyConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std_text
from posattn.runs.sweep import sweep
from posattn.theory.scaling import power_law


def run(config: TransferStudyConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The curves, then the samples needed."""
    for num_patches in config.needed.num_patches:  # said before anything is trained
        checks.probability("noise_rate", at(config, num_patches).noise_rate)
    curves = transfer_curves(config.curves, config.seed, run, progress, WAYS)
    needed = needed_samples(config, run, progress)
    return {
        "title": "Learned structure transfers from few samples",
        "summary": "A task with the same partition and another feature, learned with the attention of the first task "
        "and without it.",
        "transfer": curves,
        "needed": needed,
        "page": to_plain([transfer_section(curves), needed_section(config, needed)]),
    }


def at(config: TransferStudyConfig, num_patches: int) -> TransferConfig:
    """The setting of the curves at another D, with as many noisy patches."""
    base, needed = config.curves, config.needed
    return replace(
        base,
        num_patches=num_patches,
        noise_rate=base.noise_rate * base.num_patches / num_patches,
        steps=max(base.steps, round(needed.steps_per_patch * num_patches)),
    )


def needed_samples(config: TransferStudyConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The N needed each way, of every D and seed, and the power law through what was reached."""
    needed = config.needed
    seeds = [config.seed + index for index in range(checks.positive_int("seeds", needed.seeds))]
    largest_first = sorted(needed.num_patches, reverse=True)
    settings = {f"D={D}/seed={s}": (at(config, D), needed, s) for D in largest_first for s in seeds}
    found = sweep("needed", settings, samples_needed, run, progress)
    samples = {
        way: [[found[f"D={D}/seed={s}"][way] for s in seeds] for D in needed.num_patches] for way in WAYS
    }
    means = {way: [mean_reached(row) for row in rows] for way, rows in samples.items()}
    fits = {way: fit_reached(needed.num_patches, rows) for way, rows in samples.items()}
    return {
        "num_patches": list(needed.num_patches),
        "samples": samples,
        "mean": means,
        "fits": fits,
        "upstream": [[found[f"D={D}/seed={s}"]["upstream"] for s in seeds] for D in needed.num_patches],
    }


def samples_needed(config: TransferConfig, needed: NeededConfig, seed: int) -> dict[str, float | None]:
    """The least N at which each way reaches the target; None where ``most`` samples do not; the accuracy upstream.

    Found by bisection among powers of 2, then linear in log N between the last below the target and the first
    that reached it.
    """
    lesson = Lesson(config, seed)
    least = {
        way: least_samples(lambda n, way=way: next(lesson.accuracies(n, (way,))), needed)  # type: ignore[misc]
        for way in WAYS
    }
    return {**least, "upstream": lesson.accuracy}


def least_samples(accuracy: Callable[[int], float], needed: NeededConfig) -> float | None:
    """The least N at which the accuracy after training on N samples reaches the target."""
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


def fit_reached(num_patches: tuple[int, ...], samples: list[list[float | None]]) -> dict[str, float] | None:
    """The power law N ~ D^exponent through the seeds that reached the target; None where too few D have any."""
    points = [(D, n) for D, row in zip(num_patches, samples, strict=True) for n in row if n is not None]
    if len({D for D, _ in points}) < 2 or len(points) < 3:
        return None
    if len({n for _, n in points}) == 1:  # no scatter to fit
        return {"exponent": 0.0, "low": 0.0, "high": 0.0}
    law = power_law([float(D) for D, _ in points], [n for _, n in points])
    return {"exponent": law.exponent, "low": law.low, "high": law.high}


def needed_section(config: TransferStudyConfig, numbers: dict[str, Any]) -> Section:
    """What the samples needed show."""
    needed, fits, samples = config.needed, numbers["fits"], numbers["samples"]
    target, first, last = f"{needed.target:.0%}", needed.num_patches[0], needed.num_patches[-1]
    ends = {
        way: [needed_text(samples[way][end], needed.most) for end in (0, -1)] for way in (FROZEN, SCRATCH)
    }
    slopes = {way: f"D to the power {exponent_text(fits[way])}" for way in (FROZEN, SCRATCH)}
    claim = (
        f"With the learned attention frozen a handful of samples gives an accuracy of {target}, whatever D; from "
        f"scratch what it takes grows as a power of D. Here, from D = {first} to {last}, it took "
        f"{' to '.join(ends[FROZEN])} samples with it frozen, {slopes[FROZEN]}, and {' to '.join(ends[SCRATCH])} "
        f"from scratch, {slopes[SCRATCH]} where it was reached (geometric mean, least to most over seeds in "
        "parentheses; 95% confidence interval in brackets)."
    )
    rows = [
        [way, *(needed_text(row, needed.most) for row in samples[way]), exponent_text(fits[way])]
        for way in WAYS
    ]
    rows.append(["accuracy upstream", *map(mean_std_text, numbers["upstream"]), ""])
    return Section(
        "Samples needed against D",
        claim,
        [
            Lines(
                f"Samples needed for {target} accuracy",
                "needed.num_patches",
                {way: f"needed.mean.{way}" for way in WAYS},
                x_label="patches D",
                y_label="downstream samples N",
                x_log=True,
                y_log=True,
                caption=f"Geometric mean over {needed.seeds} seeds; C, d and q·D stay as D grows. 1 is the least "
                "there is; a curve leaves out a D at which a seed did not get there.",
            ),
            Table(
                "Samples needed: geometric mean (least to most over seeds)",
                ["", *(f"D = {D}" for D in needed.num_patches), "exponent of D"],
                rows,
                caption="Exponents are fitted to the seeds that reached the target. Upstream: what as many steps from "
                "scratch reach with fresh samples at each.",
            ),
        ],
    )


def exponent_text(fit: dict[str, float] | None) -> str:
    """The exponent with its confidence interval."""
    if fit is None:
        return "none: the target was not reached"
    return f"{fit['exponent']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"


def needed_text(samples: list[float | None], most: int) -> str:
    """The samples needed over seeds, and how many seeds needed more than were tried."""
    reached = [n for n in samples if n is not None]
    if not reached:
        return f"> {most}"
    middle, least, largest = (
        f"{n:.3g}" if n < 100 else f"{n:.0f}" for n in (geometric_mean(reached), min(reached), max(reached))
    )
    text = f"{middle} ({least} to {largest})"
    missed = len(samples) - len(reached)
    return text + (f", > {most} in {missed} of {len(samples)}" if missed else "")

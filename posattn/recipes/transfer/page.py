"""The report of `posattn run transfer`, except for the curves."""

from statistics import geometric_mean
from typing import Any

from posattn.recipes.transfer.curves import EVEN, FROZEN, PERMUTED, SCRATCH, START, TUNED, WAYS
from posattn.recipes.transfer.settings import TransferStudyConfig
from posattn.runs.page import Lines, Section, Table
from posattn.runs.seeds import mean_std_text


def denied_section(numbers: dict[str, Any]) -> Section:
    """A sentence on what is lost without the structure."""
    least, most, mean = (*(samples_text(numbers["samples"][end]) for end in (0, -1)), numbers["mean"])
    claim = (
        f"With the attention held uniform, or held at its start, v alone reaches {mean[EVEN][-1]:.2f} and "
        f"{mean[START][-1]:.2f} with {most}; from scratch, A and v together reach {mean[SCRATCH][-1]:.2f}. "
        f"Which set each query reads does not matter: with the sets permuted, the accuracy is "
        f"{mean[PERMUTED][0]:.2f} with {least} and {mean[PERMUTED][-1]:.2f} with {most}."
    )
    return Section("Without the structure", claim, [])


def samples_text(count: int) -> str:
    """A number of samples."""
    return f"{count} {'sample' if count == 1 else 'samples'}"


def needed_section(config: TransferStudyConfig, numbers: dict[str, Any]) -> Section:
    """A sentence on the samples needed."""
    needed, samples = config.needed, numbers["samples"]
    target = f"{needed.target:.0%}"
    first, last = needed.num_patches[0], needed.num_patches[-1]
    ends = {
        way: " to ".join(needed_text(samples[way][end], needed.most) for end in (0, -1))
        for way in (FROZEN, TUNED, SCRATCH)
    }
    claim = (
        f"From D = {first} to {last}, an accuracy of {target} takes {ends[FROZEN]} samples with the learned attention "
        f"frozen, {ends[TUNED]} with it fine-tuned by plain gradient descent at one rate, and {ends[SCRATCH]} from "
        "scratch (geometric mean, range over seeds in parentheses)."
    )
    rows = [[way, *(needed_text(row, needed.most) for row in samples[way])] for way in WAYS]
    rows.append(["accuracy upstream", *map(mean_std_text, numbers["upstream"])])
    return Section(
        "Samples needed against D",
        claim,
        [
            Lines(
                f"Samples needed for {target} accuracy",
                "num_patches",
                {way: f"mean.{way}" for way in WAYS},
                x_label="patches D",
                y_label="downstream samples N",
                x_log=True,
                y_log=True,
                caption=f"Geometric mean over {needed.seeds} seeds; C, d and q·D are the same for every D. "
                "1 is the smallest N; a curve leaves out a D at which some seed did not reach the target.",
            ),
            Table(
                "Samples needed: geometric mean (range over seeds)",
                ["", *(f"D = {D}" for D in needed.num_patches)],
                rows,
                caption="Upstream: the accuracy of as many steps from scratch with fresh samples at each. No exponent "
                "is fitted: where some seeds need more than was tried, the mean is not known.",
            ),
        ],
        at="needed",
    )


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

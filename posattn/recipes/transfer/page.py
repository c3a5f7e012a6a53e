"""The report of `posattn run transfer`, except for the curves."""

from statistics import geometric_mean
from typing import Any

from posattn.recipes.transfer.curves import BY_HAND, FROZEN, PERMUTED, SCRATCH, START, TUNED, UNIFORM, WAYS
from posattn.recipes.transfer.settings import TransferStudyConfig
from posattn.runs.page import Lines, Section, Table
from posattn.runs.seeds import averaged_text, mean_std_text


def without_section(numbers: dict[str, Any]) -> Section:
    """What attention without the structure reaches."""
    samples, mean = numbers["samples"], numbers["mean"]
    least, most = samples[0], samples[-1]
    claim = (
        f"At N = {most}, v alone reaches {mean[UNIFORM][-1]:.2f} with the attention held uniform and "
        f"{mean[START][-1]:.2f} with it held at its start; from scratch, A and v together reach "
        f"{mean[SCRATCH][-1]:.2f}. With attention by hand to the own sets the accuracy is {mean[BY_HAND][0]:.2f} at "
        f"N = {least} and {mean[BY_HAND][-1]:.2f} at N = {most}, with the sets permuted {mean[PERMUTED][0]:.2f} and "
        f"{mean[PERMUTED][-1]:.2f}."
    )
    return Section("Without the structure", claim, [])


def needed_section(config: TransferStudyConfig, numbers: dict[str, Any]) -> Section:
    """The samples needed to reach the target."""
    needed, target = config.needed, f"{config.needed.target:.0%}"
    texts = {way: [needed_text(row, needed.most) for row in numbers["samples"][way]] for way in WAYS}
    ends = {way: f"{row[0]} to {row[-1]}" for way, row in texts.items()}
    claim = (
        f"From D = {needed.num_patches[0]} to {needed.num_patches[-1]}, an accuracy of {target} takes {ends[FROZEN]} "
        f"samples with the learned attention frozen, {ends[TUNED]} with it fine-tuned by plain gradient descent at one "
        f"rate, and {ends[SCRATCH]} from scratch (geometric mean, range over seeds in parentheses)."
    )
    curves = Lines(
        f"Samples needed for {target} accuracy",
        "num_patches",
        {way: f"mean.{way}" for way in WAYS},
        x_label="patches D",
        y_label="downstream samples N",
        x_log=True,
        y_log=True,
        caption=f"{averaged_text('Geometric mean', needed.seeds)}; C, d and q·D are the same for every D. 1 is the "
        "smallest N; a curve has no point at a D at which some seed did not reach the target.",
    )
    table = Table(
        "Samples needed: geometric mean (range over seeds)",
        ["", *(f"D = {D}" for D in needed.num_patches)],
        [[way, *row] for way, row in texts.items()]
        + [["accuracy upstream", *map(mean_std_text, numbers["upstream"])]],
        "Upstream: the accuracy of as many steps from scratch with fresh samples at each. No exponent is fitted: where "
        "some seeds need more than was tried, the mean is not known.",
    )
    return Section("Samples needed against D", claim, [curves, table], at="needed")


def needed_text(samples: list[float | None], most: int) -> str:
    """The samples needed over seeds, and how many seeds needed more than were tried."""
    reached = [n for n in samples if n is not None]
    if not reached:
        return f"> {most}"
    middle, least, largest = (
        f"{n:.3g}" if n < 100 else f"{n:.0f}" for n in (geometric_mean(reached), min(reached), max(reached))
    )
    missed = len(samples) - len(reached)
    more = f", > {most} in {missed} of {len(samples)}" if missed else ""
    return f"{middle} ({least} to {largest}){more}"

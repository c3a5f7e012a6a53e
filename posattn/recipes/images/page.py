"""The page of the comparison on images."""

from collections.abc import Iterator
from typing import Any

from posattn.recipes.images.positions import THRESHOLD
from posattn.recipes.images.settings import ImagesConfig
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL
from posattn.runs.page import Gallery, GridMaps, Lines, Section, Table, mean_lines
from posattn.runs.seeds import averaged_text, count_text, mean_std, mean_std_text

Numbers = dict[str, Any]


def images_section(config: ImagesConfig, numbers: Numbers, timing: Numbers) -> Section:
    """A table of the models, accuracy over epochs and over seconds, the gaps, and where the positional model looks."""
    final = numbers["final_accuracy"]
    curves = {name: f"images.accuracy.*.{name}" for name in final}
    over_epochs = mean_lines(
        "Test accuracy over training",
        "images.epoch",
        curves,
        "epoch",
        "test accuracy",
        caption=spread_text(config),
    )
    over_seconds = mean_lines(
        "Test accuracy over the seconds that training took",
        {name: f"timing.elapsed.{name}" for name in final},
        curves,
        "seconds",
        "test accuracy",
        caption=f"The same over training time. {sharing_text(numbers)}",
    )
    return Section(
        "Real images",
        claim(config, numbers, timing),
        [
            models_table(config, numbers, timing),
            over_epochs,
            over_seconds,
            *gap_items(config, numbers),
            *maps(config, numbers),
        ],
    )


def claim(config: ImagesConfig, numbers: Numbers, timing: Numbers) -> str:
    """The two models that are compared; where one is not there, the accuracy of each that is."""
    final, speed = numbers["final_accuracy"], timing["images_per_second"]
    percent = {name: mean_std_text(values, 1, 100) for name, values in final.items()}
    if not {ORIGINAL, POSITIONAL} <= final.keys():
        reached = ", ".join(f"{name} {value} %" for name, value in percent.items())
        return f"Test accuracy on {config.data.data}: {reached}."
    ratio = speed[POSITIONAL][0] / speed[ORIGINAL][0]
    return (
        f"A ViT whose attention depends on positions alone reached {percent[POSITIONAL]} % on {config.data.data} after "
        f"{count_text(config.train.epochs, 'epoch')}, the original {percent[ORIGINAL]} %, "
        f"at {ratio:.2f} times the original's inference throughput. {lead_text(numbers['gaps'][POSITIONAL])}"
    )


def lead_text(gap: Numbers) -> str:
    """Whether a lead after the first epochs is there at the end."""
    early, final = gap["early"], gap["final"]
    first = count_text(gap["early_epoch"], "epoch")
    told = f"It was {gap_text(early)} points ahead after {first} and {gap_text(final)} at the end"
    if final["half"] is None:
        return f"{told} (one seed: the uncertainty is not known)."
    if abs(final["mean"]) <= final["half"]:
        verdict = "the final gap cannot be told from none"
    elif final["mean"] < 0:
        verdict = "the original is ahead in the end"
    else:
        verdict = "the lead lasts" if early["mean"] > 0 else "the positional ViT is ahead in the end"
    return f"{told} (95 % intervals over {len(final['values'])} seeds): {verdict}."


def gap_items(config: ImagesConfig, numbers: Numbers) -> Iterator[Table | Lines]:
    """How far the other models are ahead of the original: a table, and figures over epochs and over seconds."""
    if not (gaps := numbers["gaps"]):
        return
    rows = [
        [name, *(gap_text(gap[when]) for when in ("early", "final", "at_time"))] for name, gap in gaps.items()
    ]
    early = count_text(next(iter(gaps.values()))["early_epoch"], "epoch")
    uncertainty = "One seed, so no uncertainty."
    if config.seeds > 1:
        uncertainty = f"Mean and 95 % confidence interval (Student) over {config.seeds} seeds."
    yield Table(
        f"Accuracy minus the {ORIGINAL}'s, in points, paired by seed",
        ["model", f"after {early}", f"after all {config.train.epochs}", "at equal time"],
        rows,
        caption=f"{uncertainty} At equal time: when the quicker of the two has finished; the other has then not yet "
        f"lowered its learning rate to 0, which costs it accuracy. {sharing_text(numbers)}",
    )
    yield gap_lines("at equal epochs", "images.epoch", list(gaps), "epochs", config)
    if timed := [name for name, gap in gaps.items() if gap["time"]]:
        seconds = {name: f"images.gaps.{name}.time.seconds" for name in timed}
        yield gap_lines("at equal time", seconds, timed, "time", config)


def gap_lines(when: str, x: str | dict[str, str], names: list[str], over: str, config: ImagesConfig) -> Lines:
    """A figure of gaps to the original."""
    return mean_lines(
        f"Accuracy minus the {ORIGINAL}'s, {when}",
        x,
        {name: f"images.gaps.{name}.{over}.*" for name in names},
        "seconds" if over == "time" else "epoch",
        "points",
        caption=f"{spread_text(config)} Differences are taken seed by seed.",
    )


def gap_text(estimate: Numbers | None) -> str:
    """A difference with its sign, and half its interval where there are several seeds."""
    if estimate is None:
        return "–"
    half = "" if estimate["half"] is None else f" ± {estimate['half']:.1f}"
    return f"{estimate['mean']:+.1f}{half}"


def spread_text(config: ImagesConfig) -> str:
    """What the curves and their bars are, for captions."""
    return f"{averaged_text('Mean and standard deviation', config.seeds)}."


def maps(config: ImagesConfig, numbers: Numbers) -> Iterator[GridMaps | Gallery]:
    """Where the positional model looks, and what its encodings have learned, as far as they are there."""
    if "grid" in numbers:
        yield GridMaps(
            "Learned positional attention over the image grid",
            "attention:maps",
            tuple(numbers["grid"]),
            numbers["heads"],
            caption="Each tile is one query patch, at its place in the image; within it, where that patch looks.",
        )
    if numbers["grams"]:
        yield Gallery(
            "P Pᵀ before and after training",
            "positions:grams",
            numbers["grams"],
            caption="Positional encodings P of the patches: what positional attention reads, else the embedding added "
            f"to the patches. Divided by the largest absolute entry; entries below {THRESHOLD:g} in absolute value are "
            f"0. Seed {config.seed}.",
        )


def models_table(config: ImagesConfig, numbers: Numbers, timing: Numbers) -> Table:
    """A row per model."""
    seconds, reached = timing["training_seconds"], timing["seconds_to_original"]
    original = mean_std(seconds[ORIGINAL])[0] if ORIGINAL in seconds else None
    rows = [
        [
            name,
            mean_std_text(final, 1, 100),
            f"{numbers['parameters'][name]:,}",
            f"{numbers['multiply_adds'][name] / 1e6:.1f}",
            mean_std_text(seconds[name], 1),
            share_text(reached[name], original) if one_clock(numbers) else "–",
            median_text(*timing["images_per_second"][name]),
        ]
        for name, final in numbers["final_accuracy"].items()
    ]
    return Table(
        f"Models of one size, trained alike on {config.data.data}",
        ["model", "accuracy, %", "parameters", "MACs, M", "training, s", f"to {ORIGINAL}'s", "images/s"],
        rows,
        caption=f"Test accuracy and seconds of training: {averaged_text('mean ± std', config.seeds)}. "
        f"{sharing_text(numbers)} MACs: multiply-adds per image. To {ORIGINAL}'s: training until the mean "
        f"accuracy is the {ORIGINAL}'s final one, as a share of the {ORIGINAL}'s training. "
        "Images/s, in inference: median and half the interquartile range, the models "
        f"interleaved.{skipped_text(numbers['skipped'])}",
    )


def share_text(seconds: float | None, original: float | None) -> str:
    """Seconds as a share of the original's training."""
    if original is None:
        return f"no {ORIGINAL}"
    return "not reached" if seconds is None else f"{seconds / original:.2f}"


def sharing_text(numbers: Numbers) -> str:
    """A sentence on what the seconds of the trainings are, for captions."""
    clock = numbers["clock"]
    apart = "" if one_clock(numbers) else ", which do not compare"
    shared = " Wall time is longer where trainings share a device." if "wall" in clock else ""
    return f"Trained in {numbers['precision']}; seconds are {clock} time{apart}, without tests.{shared}"


def one_clock(numbers: Numbers) -> bool:
    """Whether the seconds of all trainings are of one clock."""
    return " and " not in numbers["clock"]


def skipped_text(skipped: dict[str, int]) -> str:
    """A sentence on the pictures that could not be decoded."""
    if not any(skipped.values()):
        return ""
    of = {"train": "training", "test": "test", "both": "before the set was divided into training and test"}
    counts = ", ".join(f"{count} {of[split]}" for split, count in skipped.items())
    return f" Pictures that could not be decoded and were skipped: {counts}."


def median_text(median: float, low: float, high: float) -> str:
    """A median and half the interquartile range."""
    return f"{median:,.0f} ± {(high - low) / 2:,.0f}"

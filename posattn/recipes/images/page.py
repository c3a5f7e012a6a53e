"""The page of the comparison on images."""

from collections.abc import Iterator
from typing import Any

from posattn.recipes.images.positions import THRESHOLD
from posattn.recipes.images.settings import ImagesConfig
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL
from posattn.runs.page import Gallery, GridMaps, Section, Table, mean_lines
from posattn.runs.seeds import mean_std, mean_std_text

Numbers = dict[str, Any]


def images_section(config: ImagesConfig, numbers: Numbers, timing: Numbers) -> Section:
    """A table of the models, accuracy over epochs and over seconds, and where the positional model looks."""
    final = numbers["final_accuracy"]
    curves, accuracy = {name: name for name in final}, {"over": "images.accuracy", "y_label": "test accuracy"}
    over_epochs = mean_lines(
        "Test accuracy over training",
        "images.epoch",
        curves,
        **accuracy,
        x_label="epoch",
        caption=f"Mean and standard deviation over {config.seeds} seeds.",
    )
    over_seconds = mean_lines(
        "Test accuracy over the seconds that training took",
        {name: f"timing.elapsed.{name}" for name in final},
        curves,
        **accuracy,
        x_label="seconds",
        caption=f"The same over training time. {sharing_text(numbers)}",
    )
    return Section(
        "Real images",
        claim(config, numbers, timing),
        [models_table(config, numbers, timing), over_epochs, over_seconds, *maps(config, numbers)],
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
        "On real images a ViT whose attention depends on positions alone does about as well as the original. "
        f"Here it reached {percent[POSITIONAL]} % against {percent[ORIGINAL]} % on {config.data.data}, "
        f"at {ratio:.2f} times the original's inference throughput."
    )


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
            share_text(reached[name], original),
            median_text(*timing["images_per_second"][name]),
        ]
        for name, final in numbers["final_accuracy"].items()
    ]
    return Table(
        f"Models of one size, trained alike on {config.data.data}",
        ["model", "accuracy, %", "parameters", "MACs, M", "training, s", f"to {ORIGINAL}'s", "images/s"],
        rows,
        caption=f"Test accuracy and seconds of training: mean ± std over {config.seeds} seeds. {sharing_text(numbers)} "
        f"MACs: multiply-adds per image. To {ORIGINAL}'s: training until the mean accuracy is the {ORIGINAL}'s final "
        f"one, as a share of the {ORIGINAL}'s training. Images/s, in inference: median and half the interquartile "
        f"range, the models interleaved.{skipped_text(numbers['skipped'])}",
    )


def share_text(seconds: float | None, original: float | None) -> str:
    """Seconds as a share of the original's training."""
    if original is None:
        return f"no {ORIGINAL}"
    return "not reached" if seconds is None else f"{seconds / original:.2f}"


def sharing_text(numbers: Numbers) -> str:
    """A sentence on how the trainings ran, for captions."""
    return f"Trainings share the machine, one thread each, in {numbers['precision']}."


def skipped_text(skipped: dict[str, int]) -> str:
    """A sentence on the pictures that could not be decoded."""
    if not any(skipped.values()):
        return ""
    return f" Pictures that could not be decoded and were skipped: {skipped['train']} training, {skipped['test']} test."


def median_text(median: float, low: float, high: float) -> str:
    """A median and half the interquartile range."""
    return f"{median:,.0f} ± {(high - low) / 2:,.0f}"

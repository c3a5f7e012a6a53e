"""The original ViT beside models whose attention depends on positions: numbers, timings, and what a page shows."""

from typing import Any

import numpy as np
from rich.progress import Progress

from posattn.bench.cost import multiply_adds
from posattn.recipes.kit.classifiers import first_images, load_split, load_trained, throughput, train_all
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL, ImagesConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import GridMaps, Lines, Section, Table
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.vision.models.freeze import freeze_attention

Numbers = dict[str, Any]


def compare_on_images(
    config: ImagesConfig, seed: int, run: RunFolder, progress: Progress
) -> tuple[Numbers, Numbers]:
    """Train each model with each seed. Returns the numbers and, apart from them, what a clock measured."""
    runs = train_all(config, seed, run, progress)
    test_set = load_split(config, "test")
    models = {name: load_trained(config, name, seed, test_set, run) for name in config.models}
    speed = run.unit("images/speed", lambda: throughput(models, test_set, config.speed_rounds))
    maps = models[POSITIONAL].attention_maps().detach()
    run.save_tensors("attention", {"maps": maps.flatten(0, 1)})
    costs = {
        name: multiply_adds(for_inference(model), first_images(test_set, 1)) for name, model in models.items()
    }
    layers, heads, _, _ = maps.shape
    numbers = {
        **gather(runs),
        "precision": runs[ORIGINAL][0]["precision"],
        "skipped": {split: load_split(config, split).skipped for split in ("train", "test")},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "multiply_adds": costs,
        "grid": list(models[POSITIONAL].patch_embed.grid_size),
        "heads": [f"layer {i // heads + 1}, head {i % heads + 1}" for i in range(layers * heads)],
    }
    return numbers, {**gather_seconds(runs, numbers), "images_per_second": speed}


def for_inference(model: Any) -> Any:
    """The model as it is used once it is trained: positional maps are constants of it."""
    return freeze_attention(model) if hasattr(model, "attention_maps") else model


def gather(runs: dict[str, list[Numbers]]) -> Numbers:
    """Test accuracy by epoch, over the seeds."""
    by_epoch = {
        name: list(zip(*(one["accuracy"] for one in ones), strict=True)) for name, ones in runs.items()
    }
    return {
        "epoch": list(range(1, 1 + len(by_epoch[ORIGINAL]))),
        "mean_accuracy": {name: [mean_std(at)[0] for at in each] for name, each in by_epoch.items()},
        "std_accuracy": {name: [mean_std(at)[1] for at in each] for name, each in by_epoch.items()},
        "final_accuracy": {name: list(each[-1]) for name, each in by_epoch.items()},
    }


def gather_seconds(runs: dict[str, list[Numbers]], numbers: Numbers) -> Numbers:
    """Seconds of training: in all, by epoch, and until the mean accuracy first is the original's final one."""
    elapsed = {
        name: np.mean([one["elapsed"] for one in ones], axis=0).tolist() for name, ones in runs.items()
    }
    goal, means = numbers["mean_accuracy"][ORIGINAL][-1], numbers["mean_accuracy"]
    reached = {name: next((i for i, a in enumerate(means[name]) if a >= goal), None) for name in runs}
    return {
        "training_seconds": {name: [one["seconds"] for one in ones] for name, ones in runs.items()},
        "elapsed": elapsed,
        "seconds_to_original": {
            name: None if epoch is None else elapsed[name][epoch] for name, epoch in reached.items()
        },
    }


def images_section(config: ImagesConfig, numbers: Numbers, timing: Numbers) -> Section:
    """The comparison: a table, accuracy over epochs and over seconds, and where the positional model looks."""
    final, speed = numbers["final_accuracy"], timing["images_per_second"]
    percent = {name: mean_std_text(values, 1, 100) for name, values in final.items()}
    count, ratio = len(final[ORIGINAL]), speed[POSITIONAL][0] / speed[ORIGINAL][0]
    claim = (
        "On real images a ViT whose attention depends on positions alone does about as well as the original. "
        f"Here it reached {percent[POSITIONAL]} % against {percent[ORIGINAL]} % on {config.data}, "
        f"at {ratio:.2f} times the original's inference throughput."
    )
    means = {name: f"images.mean_accuracy.{name}" for name in final}
    deviations = {name: f"images.std_accuracy.{name}" for name in final}
    return Section(
        "Real images",
        claim,
        [
            comparison(config, numbers, timing, percent),
            Lines(
                "Test accuracy over training",
                "images.epoch",
                means,
                deviations,
                x_label="epoch",
                y_label="test accuracy",
                caption=f"Mean and standard deviation over {count} seeds.",
            ),
            Lines(
                "Test accuracy over the seconds that training took",
                {name: f"timing.elapsed.{name}" for name in final},
                means,
                deviations,
                x_label="seconds",
                y_label="test accuracy",
                caption=f"The same, by the clock. {conditions(numbers)}",
            ),
            GridMaps(
                "Learned positional attention over the image grid",
                "attention:maps",
                tuple(numbers["grid"]),
                numbers["heads"],
                caption="Each tile is one query patch, at its place in the image; within it, where that patch looks.",
            ),
        ],
    )


def conditions(numbers: Numbers) -> str:
    """How the trainings ran, for captions."""
    return f"Trainings share the machine, one thread each, in {numbers['precision']}."


def comparison(config: ImagesConfig, numbers: Numbers, timing: Numbers, percent: dict[str, str]) -> Table:
    """A row a model."""
    seconds, reached = timing["training_seconds"], timing["seconds_to_original"]
    original = mean_std(seconds[ORIGINAL])[0]
    rows = [
        [
            name,
            percent[name],
            f"{numbers['parameters'][name]:,}",
            f"{numbers['multiply_adds'][name] / 1e6:.1f}",
            mean_std_text(seconds[name], 1),
            "not reached" if reached[name] is None else f"{reached[name] / original:.2f}",
            around(*timing["images_per_second"][name]),
        ]
        for name in percent
    ]
    return Table(
        f"Models of one size, trained alike on {config.data}",
        ["model", "accuracy, %", "parameters", "MACs, M", "training, s", f"to {ORIGINAL}'s", "images/s"],
        rows,
        caption=f"Test accuracy and seconds of training: mean ± std over {config.seeds} seeds. {conditions(numbers)} "
        f"MACs: multiply-adds of an image. To {ORIGINAL}'s: training until the mean accuracy is the {ORIGINAL}'s final "
        f"one, as a share of the {ORIGINAL}'s training. Images/s, in inference: median and half the distance of the "
        f"quartiles, the models taking turns.{skipped_text(numbers['skipped'])}",
    )


def skipped_text(skipped: dict[str, int]) -> str:
    """What was left out because it could not be decoded."""
    if not any(skipped.values()):
        return ""
    return f" Left out, for they could not be decoded: {skipped['train']} training and {skipped['test']} test pictures."


def around(median: float, low: float, high: float) -> str:
    """A median and half the distance of the quartiles."""
    return f"{median:,.0f} ± {(high - low) / 2:,.0f}"

"""Act two: with the learned attention frozen, another feature is learned from few samples."""

from collections.abc import Iterator
from typing import Any

from rich.progress import Progress
from torch import Generator

from posattn import checks
from posattn.recipes.transfer.settings import TransferConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy_in_law
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.transfer import fit, fresh_start, frozen_attention, transferred_attention

FROZEN, SCRATCH = "learned attention, frozen", "from scratch"
TUNED, ORACLE = "learned attention, fine-tuned", "attention by hand, frozen"
WAYS = (FROZEN, TUNED, SCRATCH, ORACLE)


class Lesson:
    """What one seed has: an upstream task learned on fresh samples, and the downstream task."""

    def __init__(self, config: TransferConfig, seed: int) -> None:
        self.config, self.generator = config, Generator().manual_seed(seed)
        partition = Partition.random(config.num_patches, config.set_size, generator=self.generator)
        task = StructuredTask(
            partition, dim=config.dim, noise_rate=config.noise_rate, generator=self.generator
        )
        blank = SimplifiedViT(config.num_patches, config.dim)
        self.learned = fresh_start(blank, generator=self.generator)
        for _ in descend_in_law(
            self.learned,
            task,
            config.batch_size,
            config.steps,
            self.rate,
            value_rate=config.value_rate,
            normalize=True,
            decay=True,
            generator=self.generator,
        ):
            pass
        self.association = patch_association(self.learned.scores, partition).top_c
        self.accuracy = accuracy_in_law(
            self.learned, task, config.test_samples, generator=self.generator
        )  # from scratch on samples without end
        self.downstream = task.downstream(generator=self.generator)

    @property
    def rate(self) -> float:
        """The length of a step of A."""
        return self.config.rate * self.config.num_patches**0.5

    def start(self, way: str) -> tuple[SimplifiedViT, float]:
        """The downstream model before training, and the length of a step of its A."""
        partition, generator = self.downstream.partition, self.generator
        if way == SCRATCH:
            return fresh_start(self.learned, generator=generator), self.rate
        if way == TUNED:
            model = transferred_attention(self.learned, generator=generator)
            return model, self.rate * self.config.tuning
        learned = solutions.associated(partition, self.downstream) if way == ORACLE else self.learned
        return frozen_attention(learned, generator=generator), self.rate

    def accuracies(self, size: int, ways: tuple[str, ...]) -> Iterator[float]:
        """Test accuracy after training each way on the same ``size`` samples."""
        config, generator = self.config, self.generator
        few = self.downstream.sample(size, generator=generator)
        for way in ways:
            model, rate = self.start(way)
            for _ in fit(
                model,
                few,
                config.batch_size,
                config.steps,
                rate,
                value_rate=config.value_rate,
                normalize=True,
                decay=True,
                tolerance=config.tolerance,
                generator=generator,
            ):
                pass
            yield accuracy_in_law(model, self.downstream, config.test_samples, generator=generator)


def transfer_curves(
    config: TransferConfig,
    seed: int,
    run: RunFolder,
    progress: Progress,
    ways: tuple[str, ...] = (FROZEN, SCRATCH),
) -> dict[str, Any]:
    """Accuracy against N, each way, for every seed, with mean and standard deviation."""
    checks.positive_int("seeds", config.seeds)
    settings = {f"seed={seed + index}": (config, seed + index, ways) for index in range(config.seeds)}
    seeds = list(sweep("transfer", settings, one_seed, run, progress).values())
    by_size = {way: list(zip(*(each[way] for each in seeds), strict=True)) for way in ways}
    spread = {way: [mean_std(column) for column in columns] for way, columns in by_size.items()}
    return {
        "samples": list(config.sizes),
        "association": [each["association"] for each in seeds],
        "by_size": by_size,
        "mean": {way: [mean for mean, _ in pairs] for way, pairs in spread.items()},
        "std": {way: [std for _, std in pairs] for way, pairs in spread.items()},
    }


def one_seed(config: TransferConfig, seed: int, ways: tuple[str, ...]) -> dict[str, Any]:
    """Learn upstream, then downstream from each N each way."""
    lesson = Lesson(config, seed)
    by_size = [list(lesson.accuracies(size, ways)) for size in config.sizes]
    return {
        "association": lesson.association,
        **dict(zip(ways, map(list, zip(*by_size, strict=True)), strict=True)),
    }


def transfer_section(numbers: dict[str, Any]) -> Section:
    """What act two shows."""
    samples, mean = numbers["samples"], numbers["mean"]
    count, ways = len(numbers["association"]), list(mean)
    claim = (
        "The learned attention transfers to a task with another feature from few samples. "
        f"Here {samples[0]} {'sample' if samples[0] == 1 else 'samples'} gave accuracy {mean[FROZEN][0]:.2f} "
        f"with the attention frozen; from scratch the same gave {mean[SCRATCH][0]:.2f} and {samples[-1]} samples "
        f"gave {mean[SCRATCH][-1]:.2f}."
    )
    rows = [[way, *map(mean_std_text, columns)] for way, columns in numbers["by_size"].items()]
    return Section(
        "Transfer",
        claim,
        [
            Lines(
                "Downstream accuracy against the number of samples",
                "transfer.samples",
                {way: f"transfer.mean.{way}" for way in ways},
                {way: f"transfer.std.{way}" for way in ways},
                x_label="downstream samples N",
                y_label="test accuracy",
                x_log=True,
                caption=f"Mean and standard deviation over {count} seeds.",
            ),
            Table(
                f"Test accuracy, mean ± std over {count} seeds", ["", *(f"N = {n}" for n in samples)], rows
            ),
        ],
    )

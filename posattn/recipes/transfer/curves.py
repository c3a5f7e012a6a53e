"""Downstream accuracy against the number of samples: with learned, new and held attention."""

from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.transfer.settings import TransferConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table
from posattn.runs.seeds import mean_std_text, over_seeds
from posattn.runs.sweep import sweep
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy_in_law
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.transfer import fit, fresh_start, frozen_attention, transferred_attention

FROZEN, TUNED = "learned attention, frozen", "learned attention, fine-tuned"
ORACLE, PERMUTED = "attention by hand, frozen", "sets permuted by hand, frozen"
SCRATCH = "from scratch"
EVEN, START = "v alone, attention held uniform", "v alone, attention held at its start"
WAYS = (FROZEN, TUNED, SCRATCH, ORACLE)
DENIED = (PERMUTED, EVEN, START)  # held away from the structure; sets permuted still read whole sets


class Lesson:
    """The upstream task of one seed, learned on fresh samples, and its downstream task."""

    def __init__(self, config: TransferConfig, seed: int) -> None:
        self.config, self.generator = config, Generator().manual_seed(seed)
        partition = Partition.random(config.num_patches, config.set_size, generator=self.generator)
        task = StructuredTask(
            partition, dim=config.dim, noise_rate=config.noise_rate, generator=self.generator
        )
        self.learned = fresh_start(SimplifiedViT(config.num_patches, config.dim), generator=self.generator)
        for _ in descend_in_law(self.learned, task, config.batch_size, config.steps, **self.crossing()):
            pass
        self.association = patch_association(self.learned.scores, partition).top_c
        self.accuracy = self.test(self.learned, task)  # from scratch, on fresh samples at every step
        self.downstream = task.downstream(generator=self.generator)

    def crossing(self) -> dict[str, Any]:
        """Options of training from scratch: unit-norm gradients cross the plateau, on which plain descent waits."""
        rate = self.config.rate * self.config.num_patches**0.5
        rates = {"rate": rate, "value_rate": self.config.value_rate}
        return {**rates, "normalize": True, "decay": True, "generator": self.generator}

    def plain(self) -> dict[str, Any]:
        """Options of plain gradient descent at one rate."""
        return {"rate": self.config.plain_rate, "generator": self.generator}

    def test(self, model: SimplifiedViT, task: StructuredTask) -> float:
        """Accuracy on fresh samples."""
        return accuracy_in_law(model, task, self.config.test_samples, generator=self.generator)

    def start(self, way: str) -> SimplifiedViT:
        """The downstream model before training."""
        task, generator = self.downstream, self.generator
        if way in (SCRATCH, START):
            model = fresh_start(self.learned, generator=generator)
            model.scores.requires_grad_(way == SCRATCH)
            return model
        if way == TUNED:
            return transferred_attention(self.learned, generator=generator)
        shift = torch.arange(task.partition.num_sets).roll(1)
        held = {
            FROZEN: lambda: self.learned,
            ORACLE: lambda: solutions.associated(task.partition, task),
            PERMUTED: lambda: solutions.permuted(task.partition, task, shift),
            EVEN: lambda: solutions.even(task.partition, task),
        }
        return frozen_attention(held[way](), generator=generator)

    def accuracies(self, size: int, ways: tuple[str, ...]) -> Iterator[float]:
        """Test accuracy after training each way on the same ``size`` samples."""
        config = self.config
        few = self.downstream.sample(size, generator=self.generator)
        for way in ways:
            model, options = self.start(way), self.crossing()
            if way in (FROZEN, TUNED, ORACLE, PERMUTED):
                model.scale, options = 1.0, self.plain()
            for _ in fit(model, few, config.batch_size, config.steps, tolerance=config.tolerance, **options):
                pass
            yield self.test(model, self.downstream)


def transfer_curves(
    config: TransferConfig,
    seed: int,
    run: RunFolder,
    progress: Progress,
    ways: tuple[str, ...] = (FROZEN, SCRATCH),
) -> dict[str, Any]:
    """Accuracy against N, each way, for every seed, with mean and standard deviation."""
    settings = {f"seed={each}": (config, each, ways) for each in range(seed, seed + config.seeds)}
    seeds = list(sweep("transfer", settings, one_seed, run, progress).values())
    return {
        "samples": list(config.sizes),
        "association": [each["association"] for each in seeds],
        "by_size": {way: list(zip(*(each[way] for each in seeds), strict=True)) for way in ways},
        **over_seeds([{way: each[way] for way in ways} for each in seeds]),
    }


def one_seed(config: TransferConfig, seed: int, ways: tuple[str, ...]) -> dict[str, Any]:
    """Learn upstream, then downstream from each N each way."""
    lesson = Lesson(config, seed)
    by_size = [list(lesson.accuracies(size, ways)) for size in config.sizes]
    columns = map(list, zip(*by_size, strict=True))
    return {"association": lesson.association, **dict(zip(ways, columns, strict=True))}


def transfer_section(numbers: dict[str, Any]) -> Section:
    """The curves."""
    samples, mean = numbers["samples"], numbers["mean"]
    count = len(numbers["association"])
    claim = (
        "The learned attention transfers to a task with another feature from few samples. "
        f"Here {samples[0]} {'sample gives' if samples[0] == 1 else 'samples give'} accuracy {mean[FROZEN][0]:.2f} "
        f"with the attention frozen; from scratch the same {'gives' if samples[0] == 1 else 'give'} "
        f"{mean[SCRATCH][0]:.2f}, and {samples[-1]} samples {mean[SCRATCH][-1]:.2f}."
    )
    rows = [[way, *map(mean_std_text, columns)] for way, columns in numbers["by_size"].items()]
    return Section(
        "Transfer",
        claim,
        [
            Lines(
                "Downstream accuracy against the number of samples",
                "samples",
                {way: f"mean.{way}" for way in mean},
                {way: f"std.{way}" for way in mean},
                x_label="downstream samples N",
                y_label="test accuracy",
                x_log=True,
                caption=f"Mean and standard deviation over {count} seeds.",
            ),
            Table(
                f"Test accuracy, mean ± std over {count} seeds", ["", *(f"N = {n}" for n in samples)], rows
            ),
        ],
        at="transfer",
    )

"""Downstream accuracy against the number of samples: with learned, new and held attention."""

from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.kit.theory import draw_task
from posattn.recipes.transfer.settings import TransferConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Section, mean_lines, mean_table
from posattn.runs.seeds import averaged_text, collect, over_seeds
from posattn.runs.sweep import sweep_seeds
from posattn.structure.association import patch_association
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy_in_law
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.transfer import fit, fresh_start, frozen_attention, transferred_attention

FROZEN, TUNED = "learned attention, frozen", "learned attention, fine-tuned"
BY_HAND, PERMUTED = "attention by hand, frozen", "sets permuted by hand, frozen"
SCRATCH = "from scratch"
UNIFORM, START = "v alone, attention held uniform", "v alone, attention held at its start"
WAYS = (FROZEN, TUNED, SCRATCH, BY_HAND)
# attention held without the structure; permuted sets are still whole sets
WITHOUT = (PERMUTED, UNIFORM, START)


class Lesson:
    """The upstream task of one seed, learned on fresh samples, and its downstream task."""

    def __init__(self, config: TransferConfig, seed: int) -> None:
        self.config, self.generator = config, Generator().manual_seed(seed)
        task = draw_task(config.num_patches, config.set_size, config.dim, config.noise_rate, self.generator)
        self.learned = fresh_start(SimplifiedViT(config.num_patches, config.dim), generator=self.generator)
        training = descend_in_law(
            self.learned, task, config.batch_size, config.steps, **self.unit_norm_steps()
        )
        for _ in training:
            pass
        self.association = patch_association(self.learned.scores, task.partition).top_c
        self.accuracy = self.test(self.learned, task)  # from scratch, on fresh samples at every step
        self.downstream = task.downstream(generator=self.generator)

    def unit_norm_steps(self) -> dict[str, Any]:
        """Options of training from scratch: unit-norm gradients cross the plateau, on which plain descent waits."""
        rate = self.config.rate * self.config.num_patches**0.5
        rates = {"rate": rate, "value_rate": self.config.value_rate}
        return {**rates, "normalize": True, "decay": True, "generator": self.generator}

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
            BY_HAND: lambda: solutions.associated(task.partition, task),
            PERMUTED: lambda: solutions.permuted(task.partition, task, shift),
            UNIFORM: lambda: solutions.uniform(task.partition, task),
        }
        return frozen_attention(held[way](), generator=generator)

    def accuracies(self, size: int, ways: tuple[str, ...]) -> Iterator[float]:
        """Test accuracy after training each way on the same ``size`` samples."""
        config = self.config
        few = self.downstream.sample(size, generator=self.generator)
        for way in ways:
            model, options = self.start(way), self.unit_norm_steps()
            if way in (FROZEN, TUNED, BY_HAND, PERMUTED):  # plain gradient descent at one rate
                model.scale, options = 1.0, {"rate": config.plain_rate, "generator": self.generator}
            training = fit(model, few, config.batch_size, config.steps, tolerance=config.tolerance, **options)
            try:
                for _ in training:
                    pass
            except FloatingPointError as error:
                raise FloatingPointError(f"{way}, N = {size}: {error}") from error
            yield self.test(model, self.downstream)


def transfer_curves(
    config: TransferConfig,
    seed: int,
    run: RunFolder,
    progress: Progress,
    ways: tuple[str, ...] = (FROZEN, SCRATCH),
) -> dict[str, Any]:
    """Accuracy against N, each way, for every seed, with mean and standard deviation."""
    seeds = range(seed, seed + config.seeds)
    ones = sweep_seeds("transfer", {"curves": (config, ways)}, seeds, learn_and_transfer, run, progress)[
        "curves"
    ]
    accuracies = [{way: one[way] for way in ways} for one in ones]
    return {
        "samples": list(config.sizes),
        "association": [one["association"] for one in ones],
        "by_size": collect(accuracies),
        **over_seeds(accuracies),
    }


def learn_and_transfer(config: TransferConfig, ways: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Learn upstream, then downstream from each N each way."""
    lesson = Lesson(config, seed)
    by_size = [dict(zip(ways, lesson.accuracies(size, ways), strict=True)) for size in config.sizes]
    return {"association": lesson.association, **collect(by_size)}


def transfer_section(numbers: dict[str, Any]) -> Section:
    """The curves."""
    samples, mean, count = numbers["samples"], numbers["mean"], len(numbers["association"])
    claim = (
        f"A task with another feature, learned from N samples: test accuracy at N = {samples[0]} is "
        f"{mean[FROZEN][0]:.2f} with the learned attention frozen and {mean[SCRATCH][0]:.2f} from scratch, "
        f"which reaches {mean[SCRATCH][-1]:.2f} at N = {samples[-1]}."
    )
    curves = mean_lines(
        "Downstream accuracy against the number of samples",
        "samples",
        {way: f"*.{way}" for way in mean},
        "downstream samples N",
        "test accuracy",
        x_log=True,
    )
    columns = ["", *(f"N = {n}" for n in samples)]
    table = mean_table(f"Test accuracy, {averaged_text('mean ± std', count)}", columns, numbers["by_size"])
    return Section("Transfer", claim, [curves, table], at="transfer")

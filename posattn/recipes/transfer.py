"""Act two: with the learned attention frozen, another feature is learned from few samples."""

from dataclasses import dataclass
from typing import Any

from rich.progress import Progress
from torch import Generator

from posattn.data.structured import Partition, StructuredTask
from posattn.learning.gradient import descend
from posattn.learning.transfer import fresh_start, frozen_attention
from posattn.measure.accuracy import accuracy
from posattn.measure.association import patch_association
from posattn.measure.spread import mean_std, mean_std_text
from posattn.models.simplified import SimplifiedViT
from posattn.page import Lines, Section, Table
from posattn.recipes.sweep import sweep
from posattn.records import RunFolder

FROZEN, SCRATCH = "learned attention, frozen", "from scratch"


@dataclass(frozen=True)
class TransferConfig:
    """Where the structure matters; unit-norm gradient steps, of one length for A and another for v."""

    num_patches: int = 128
    """D"""
    set_size: int = 8
    """C"""
    dim: int = 64
    """d"""
    noise_rate: float = 0.25
    """q"""
    seeds: int = 5
    sizes: tuple[int, ...] = (8, 32, 128, 512)
    """N, the downstream samples"""
    steps: int = 300
    batch_size: int = 128
    """Upstream samples a step"""
    rate: float = 1.0
    """Length of a step of A"""
    value_rate: float = 0.001
    """Length of a step of v"""
    test_samples: int = 4096


def transfer_curves(config: TransferConfig, seed: int, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Accuracy against N, both ways, for every seed, with mean and standard deviation."""
    settings = {f"seed={seed + index}": (config, seed + index) for index in range(config.seeds)}
    seeds = list(sweep("transfer", settings, one_seed, run, progress).values())
    by_size = {way: list(zip(*(each[way] for each in seeds), strict=True)) for way in (FROZEN, SCRATCH)}
    spread = {way: [mean_std(column) for column in columns] for way, columns in by_size.items()}
    return {
        "samples": list(config.sizes),
        "association": [each["association"] for each in seeds],
        "by_size": by_size,
        "mean": {way: [mean for mean, _ in pairs] for way, pairs in spread.items()},
        "std": {way: [std for _, std in pairs] for way, pairs in spread.items()},
    }


def one_seed(config: TransferConfig, seed: int) -> dict[str, Any]:
    """Learn upstream, then downstream from each N both ways."""
    generator = Generator().manual_seed(seed)
    partition = Partition.random(config.num_patches, config.set_size, generator=generator)
    task = StructuredTask(partition, dim=config.dim, noise_rate=config.noise_rate, generator=generator)
    learned = SimplifiedViT(config.num_patches, config.dim, generator=generator)
    learn(learned, lambda: task.sample(config.batch_size, generator=generator), config)
    downstream = task.downstream(generator=generator)
    test = downstream.sample(config.test_samples, generator=generator)
    found: dict[str, Any] = {FROZEN: [], SCRATCH: []}
    for size in config.sizes:
        few = downstream.sample(size, generator=generator)
        for way, start in ((FROZEN, frozen_attention), (SCRATCH, fresh_start)):
            model = start(learned, generator=generator)
            learn(model, lambda few=few: few, config)  # type: ignore[misc]
            found[way].append(accuracy(model, test))
    return {**found, "association": patch_association(learned.scores, partition).top_c}


def learn(model: SimplifiedViT, sample: Any, config: TransferConfig) -> None:
    """Unit-norm gradient descent; the analysis setting crosses long plateaus otherwise."""
    rates = {"rate": config.rate, "value_rate": config.value_rate}
    for _ in descend(model, sample, config.steps, normalize=True, **rates):
        pass


def transfer_section(numbers: dict[str, Any]) -> Section:
    """What act two shows."""
    samples, mean = numbers["samples"], numbers["mean"]
    count = len(numbers["association"])
    claim = (
        "The learned attention transfers to a task with another feature from few samples. "
        f"Here {samples[0]} samples gave accuracy {mean[FROZEN][0]:.2f} with the attention frozen; from scratch "
        f"{samples[0]} samples gave {mean[SCRATCH][0]:.2f} and {samples[-1]} gave {mean[SCRATCH][-1]:.2f}."
    )
    rows = [[way, *map(mean_std_text, columns)] for way, columns in numbers["by_size"].items()]
    return Section(
        "Transfer",
        claim,
        [
            Lines(
                "Downstream accuracy against the number of samples",
                "transfer.samples",
                {way: f"transfer.mean.{way}" for way in (FROZEN, SCRATCH)},
                {way: f"transfer.std.{way}" for way in (FROZEN, SCRATCH)},
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

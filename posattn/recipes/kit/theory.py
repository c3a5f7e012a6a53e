"""What the recipes on the structured task share: drawing a task, and reading histories of several seeds."""

from collections.abc import Sequence
from typing import Any

from torch import Generator

from posattn.runs.seeds import over_seeds
from posattn.structure.partition import Partition
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import History, first_full


def draw_task(
    num_patches: int,
    set_size: int,
    dim: int,
    noise_rate: float,
    generator: Generator,
    noise_std: float | None = None,
) -> StructuredTask:
    """A structured task with a random partition and a random feature."""
    partition = Partition.random(num_patches, set_size, generator=generator)
    return StructuredTask(partition, dim=dim, noise_rate=noise_rate, noise_std=noise_std, generator=generator)


def exact(number: float) -> str:
    """The number as text that no other number has, for the names of units: six digits where they are enough."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def read_histories(histories: Sequence[History], index: int) -> History:
    """Every measure at one of the measured steps (0: the first, -1: the last), one value per seed."""
    return {name: [history[name][index] for history in histories] for name in histories[0]}


def summarise(histories: Sequence[History], complete: str = "exact") -> dict[str, Any]:
    """Mean and standard deviation over seeds, along training; the ends of every seed, and when ``complete`` was 1."""
    return {
        **over_seeds(histories),
        "first": read_histories(histories, 0),
        "last": read_histories(histories, -1),
        "complete": [first_full(history, complete) for history in histories],
    }

"""Speed of a training step in law over one that builds the patches, interleaved in one run.

``python -m posattn.bench.theory --num-patches 1024 --dim 1024`` prints both.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import tyro
from torch import Generator

from posattn import checks
from posattn.bench.timing import quartiles
from posattn.runs.device import full_name
from posattn.structure.partition import Partition
from posattn.theory.descent import Step, descend
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

BURST, RATE = 10, 1e-6


class StepSeconds(NamedTuple):
    """Seconds per step of each round."""

    patches: list[float]
    in_law: list[float]


def step_seconds(num_patches: int, set_size: int, dim: int, batch_size: int, rounds: int) -> StepSeconds:
    """Time one step that builds the patches, then ten in law, for ``rounds`` rounds after one warm-up round.

    Both train the analysis preset at q = 0.25 in float32 on the CPU and draw their batches within the step.
    Steps in law come in bursts because the patches leave the caches cold for the first.
    """
    checks.positive_int("rounds", rounds)
    generator = Generator().manual_seed(0)
    partition = Partition.contiguous(num_patches, set_size)
    task = StructuredTask(partition, dim=dim, noise_rate=0.25, generator=generator)
    built, in_law = SimplifiedViT.analysis(task), SimplifiedViT.analysis(task)
    steps = rounds + 1
    of_patches = descend(built, lambda: task.sample(batch_size, generator=generator), steps, RATE)
    of_law = descend_in_law(in_law, task, batch_size, BURST * steps, RATE, generator=generator)
    seconds = [(_timed(of_patches, 1), _timed(of_law, BURST)) for _ in range(steps)]
    return StepSeconds(*(list(of_one) for of_one in zip(*seconds[1:], strict=True)))


@dataclass(frozen=True)
class Sizes:
    """The task and batch size of the timed steps."""

    num_patches: int = 1024
    set_size: int = 8
    dim: int = 1024
    batch_size: int = 64
    rounds: int = 7


def main() -> None:
    """Print the median and quartiles of both, in milliseconds, and of their ratio."""
    config = tyro.cli(Sizes)
    seconds = step_seconds(**asdict(config))
    print(config, full_name("cpu"))
    for name, values in seconds._asdict().items():
        median, low, high = (1000 * value for value in quartiles(values))
        print(f"{name:8s} {median:9.3f} ms ({low:.3f} to {high:.3f})")
    ratio = quartiles([patches / in_law for patches, in_law in zip(*seconds, strict=True)])
    print(f"ratio    {ratio.median:9.1f}    ({ratio.low:.1f} to {ratio.high:.1f})")


def _timed(run: Iterator[Step], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        next(run)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()

"""The cost of an inspection relative to fused inference of the same images."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from posattn.bench.timing import Quartiles, quartiles
from posattn.runs.page import Section, Table
from posattn.vision.inspect.inspection import inspect_model

MODEL, PATCH = "vit_small_patch14_dinov2", 14
TOKENS = 8192  # of all images of a round


class InspectionCost(NamedTuple):
    """CPU seconds per image over all threads; ``fixed`` is the part of an inspection after its last image.

    ``ratio`` is the rest over plain inference, by round, ``whole`` with the fixed part for so many images.
    """

    plain: Quartiles
    inspect: Quartiles
    ratio: Quartiles
    fixed: Quartiles
    whole: Quartiles


class Clocked:
    """Images as one batch; ``after`` has the CPU seconds from the end of each pass to the next, or to ``stop``."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.after, self.ended = images, 0.0, 0.0

    def __iter__(self) -> Iterator[Tensor]:
        self.stop()
        yield self.images
        self.ended = time.process_time()

    def stop(self) -> None:
        self.after += time.process_time() - self.ended if self.ended else 0.0
        self.ended = 0.0


def inspection_cost(model: nn.Module, images: Tensor, rounds: int = 3, **options: Any) -> InspectionCost:
    """Time plain inference and inspection of the same images in alternation, after one warm-up round.

    CPU time is least disturbed by other work on the machine.

    Args:
        model: see ``inspect_model``.
        images: (n, c, H, W) on the CPU, at least two.
        rounds: at least two.
        options: of ``inspect_model``. Plain inference takes the batch size that the inspection chooses.
    """
    n, rows = len(images), []
    for _ in range(rounds + 1):
        clocked = Clocked(images)
        whole, inspection = cpu_seconds(lambda given=clocked: inspect_model(model, given, **options))  # type: ignore[misc]
        clocked.stop()
        batch_size = inspection.plan.batch_size
        del inspection  # its maps would count in the peak memory of the next round
        plain, _ = cpu_seconds(lambda size=batch_size: infer(model, images, size))  # type: ignore[misc]
        seen = whole - clocked.after
        rows.append((plain / n, seen / n, seen / plain, clocked.after, whole / plain))
    return InspectionCost(*(quartiles(list(values)) for values in zip(*rows[1:], strict=True)))


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process in a call, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


@torch.inference_mode()
def infer(model: Any, images: Tensor, batch_size: int) -> None:
    """Plain inference, batch by batch."""
    for batch in images.split(batch_size):
        getattr(model, "forward_features", model)(batch)


def in_a_process(size: int, rounds: int, depth: int = 12, threads: int = 1) -> dict[str, Any]:
    """``cost_at`` in a process of its own, so that the peak of its memory is that of the inspection."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(cost_at, size, rounds, depth, threads).result()


def cost_at(size: int, rounds: int, depth: int, threads: int) -> dict[str, Any]:
    """The cost for ViT-S/14 with random weights and images of ``size`` pixels, and the process's peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(MODEL, img_size=size, depth=depth).eval()
    images = torch.randn(max(4, TOKENS // (size // PATCH) ** 2), 3, size, size)
    cost = inspection_cost(model, images, rounds)
    return {"size": size, "images": len(images), "peak": peak_memory(), **cost._asdict()}


def peak_memory() -> int:
    """Bytes of this process at most so far; ``getrusage`` would start at the peak of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def cost_section(entries: list[dict[str, Any]]) -> Section:
    """The table of the costs at several sizes."""

    def spread(values: Any, digits: int) -> str:
        median, low, high = values
        return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    rows = [
        [
            f"{entry['size']} px",
            str(entry["images"]),
            *(
                spread(entry[key], digits)
                for key, digits in (("plain", 3), ("ratio", 2), ("fixed", 1), ("whole", 2))
            ),
            f"{entry['peak'] / 1e9:.2f}",
        ]
        for entry in entries
    ]
    columns = [
        "size",
        "images",
        "inference, s an image",
        "while images pass",
        "after them, s",
        "together",
        "peak, GB",
    ]
    claim = "Inspections of ViT-S/14 in CPU seconds over fused inference of the same images: median and quartiles."
    return Section("Cost of an inspection", claim, [Table("", columns, rows)])

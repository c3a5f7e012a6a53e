"""What a computation costs by count: multiply-adds of its graph, and the bytes it holds at its peak."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler otherwise tells of its start and stop


def _gathered(weights: Any, indices: Any, *args: Any, **options: Any) -> int:
    return 2 * indices.numel() * weights.shape[-1]


for name in (
    "_embedding_bag",
    "_embedding_bag_forward_only",
):  # pruned maps; torch counts dense products alone
    register_flop_formula(getattr(torch.ops.aten, name), get_raw=True)(_gathered)  # type: ignore[no-untyped-call]


@torch.no_grad()
def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one forward in evaluation mode, counted from the operators that it calls.

    Those of products (linear layers, convolutions, attention, pruned maps), half of what torch's FlopCounterMode
    counts; norms, activations and additions are none.
    """
    training = model.training
    model.train()  # forgets the maps that positional attention keeps
    with FlopCounterMode(display=False) as counter:
        model.eval()(images)
    model.train(training)
    return counter.get_total_flops() // 2


def peak_memory(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Bytes that ``work`` holds at its peak beyond what was held before, as torch's allocator counts them.

    On a CPU the scratch memory of the libraries below torch is not in it.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    held = peak = 0
    for change in _allocations(work):
        held += change
        peak = max(peak, held)
    return peak


def _allocations(work: Callable[[], Any]) -> Iterator[int]:
    """The bytes of every allocation (positive) and release (negative), in their order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    yield from (
        event["args"]["Bytes"] for event in sorted(changes, key=lambda event: event["args"]["Ev Idx"])
    )

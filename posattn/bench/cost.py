"""Multiply-adds and peak memory of a computation."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from posattn.vision.modes import evaluating

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's messages at start and stop

ATTENTION = re.compile(r"aten::_scaled_dot_product_\w*attention(?!\w*backward)\w*")
WEIGHTED_SUM = re.compile(r"aten::_embedding_bag(_forward_only)?")
# operators on several tensors that multiply no matrices, in addition to pointwise ones
FREE = re.compile(
    r"aten::(cat|stack|copy_|\w*layer_norm|\w*rms_norm|\w*group_norm|\w*batch_norm\w*|where"
    r"|(index_put|index_copy|index_fill|scatter|slice_scatter|select_scatter|masked_scatter|masked_fill)_?)"
)
INDICES = (torch.bool, torch.int32, torch.int64)


class _Uncounted(TorchDispatchMode):
    """Counts the multiply-adds of the operators that torch's counter has no formula for."""

    def __init__(self, counted: Any) -> None:
        super().__init__()
        self.counted, self.total = counted, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in self.counted:
            self.total += _multiply_adds(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _multiply_adds(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Multiply-adds of a call. Raises NotImplementedError for an unknown operator that may multiply matrices."""
    name = func._schema.name
    if ATTENTION.fullmatch(name):
        query, key, value = (tensor.shape for tensor in args[:3])
        return query[:-1].numel() * key[-2] * (query[-1] + value[-1])
    if WEIGHTED_SUM.fullmatch(name):
        weights, indices = args[:2]
        return indices.numel() * weights.shape[1]
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if _is_operand(leaf)]
    if len(operands) < 2 or torch.Tag.pointwise in func.tags or FREE.fullmatch(name):
        return 0
    raise NotImplementedError(f"the multiply-adds of {name} are not known: it would count as nothing")


def _is_operand(leaf: Any) -> bool:
    """Whether an argument may be a factor of a product: numbers, or packed weights."""
    return leaf.dtype not in INDICES if isinstance(leaf, Tensor) else isinstance(leaf, torch.ScriptObject)


@contextmanager
def _untrainable(model: nn.Module) -> Iterator[None]:
    """Torch's counter fails at a view of a parameter that a module is given, such as the latent of timm's pooling."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.no_grad()
def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one forward pass in evaluation mode, counted from the operators that it calls.

    Only products count: linear layers, convolutions, attention (all scores, masked or not), pruned maps. The result is
    half of what torch's FlopCounterMode counts, plus operators without a formula in this version of torch, such as
    fused attention on a CPU before torch 2.15.

    Args:
        model: any module; its training mode is restored.
        images: a batch of its inputs.

    Raises:
        NotImplementedError: the model calls an operator without a formula that may multiply matrices.
    """
    counter = FlopCounterMode(display=False)
    # the counter decomposes operators, so it is entered last: the outer mode gets what it did not decompose
    with evaluating(model), _untrainable(model), _Uncounted(counter.flop_registry) as uncounted, counter:
        model.train()  # positional attention drops its cached maps
        model.eval()(images)
    return counter.get_total_flops() // 2 + uncounted.total


def peak_memory(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Peak bytes that ``work`` allocates, by torch's allocator, beyond those allocated before.

    On a CPU this excludes scratch memory of the libraries that torch calls. RuntimeError if torch counts none.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    held = peak = 0
    # under load the profiler once gave a trace without allocations
    for change in _allocations(work) or _allocations(work):
        held += change
        peak = max(peak, held)
    if not peak:
        raise RuntimeError("torch's profiler recorded no allocation")
    return peak


def _allocations(work: Callable[[], Any]) -> list[int]:
    """Bytes of every allocation (positive) and release (negative), in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    changes = [event["args"] for event in events if event["name"] == "[memory]"]
    return [change["Bytes"] for change in sorted(changes, key=lambda change: change["Ev Idx"])]

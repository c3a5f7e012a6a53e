"""Speed of models side by side: inference and training steps, eager and compiled, relative to a matrix product."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posattn import checks
from posattn.bench.cost import multiply_adds, peak_memory
from posattn.bench.timing import interleaved
from posattn.vision.training.precision import attention_for

INFERENCE, TRAINING = "inference", "training"
EAGER, COMPILED = "eager", "compiled"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
PRODUCT = 2048  # size of the square matrix product that measures the machine's peak
SLOWEST = 60  # seconds of a call; one that takes longer is not timed
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Work = Callable[[], Any]


def side_by_side(
    models: Mapping[str, nn.Module],
    images: Tensor,
    mode: str,
    dtype: str,
    rounds: int,
    executions: Sequence[str] = (EAGER, COMPILED),
) -> dict[str, Any]:
    """Time each model in each execution, and the matrix product, interleaved in one run.

    For inference, weights and images have the dtype. A training step is forward, backward and AdamW on float32 weights,
    with autocast if the dtype is bfloat16; on a CPU, attention is then unfused, which trains faster.
    ``torch.compile`` compiles the whole model for inference, with frozen weights, which inductor packs; for training
    it compiles each block; equal blocks share one compilation.

    Args:
        models: models with ``blocks``, on the device of ``images``.
        images: (B, c, H, W) float32, the input of all models.
        mode: ``inference`` or ``training``.
        dtype: ``float32`` or ``bfloat16``.
        rounds: timed rounds, after one warm-up.
        executions: ``eager``, ``compiled`` or both.

    Returns:
        ``peak``: seconds of each matrix product; by model ``multiply_adds`` of a batch and ``parameters``; by model
        and execution ``seconds`` of each round and ``memory``, bytes at the peak beyond weights and images; ``failed``,
        the reason by execution where a model could not be called, or a call takes more than ``SLOWEST`` seconds.

    Raises:
        ValueError: an unknown mode, type or execution, or ``rounds`` below 2.
        RuntimeError: all models failed.
    """
    checks.known("mode", mode, (INFERENCE, TRAINING))
    checks.known("dtype", dtype, DTYPES)
    for execution in executions:
        checks.known("execution", execution, (EAGER, COMPILED))
    if checks.positive_int("rounds", rounds) < 2:
        raise ValueError(f"rounds must be at least 2 for quartiles, got {rounds}")
    from torch._inductor import config  # the import takes seconds

    torch.compiler.reset()
    with config.patch(freezing=mode == INFERENCE):  # torch.compile's option alone does not reach dynamo
        entries = {name: prepared(model, images, mode, dtype, executions) for name, model in models.items()}
    works = {
        f"{name} {how}": made.work
        for name, entry in entries.items()
        for how, made in entry.items()
        if isinstance(made, Prepared)
    }
    if not works:
        raise RuntimeError(f"no model can be timed: {entries}")
    seconds = interleaved({**works, "peak": product(images.device, DTYPES[dtype])}, rounds)
    torch.compiler.reset()
    return {"peak": seconds["peak"], **{name: timed(name, entry, seconds) for name, entry in entries.items()}}


class Prepared(NamedTuple):
    """A call that runs."""

    work: Work
    memory: int  # bytes


Entry = dict[str, Any]  # a Prepared or the reason why there is none by execution, and the size of the model


def prepared(model: nn.Module, images: Tensor, mode: str, dtype: str, executions: Sequence[str]) -> Entry:
    """The calls of a model to time, called once or twice already."""
    make = inference if mode == INFERENCE else training_step
    entry: Entry = {"parameters": sum(p.numel() for p in model.parameters())}
    try:
        entry["multiply_adds"] = multiply_adds(model, images.to(next(model.parameters()).dtype))
    except Exception as error:
        return dict.fromkeys(executions, reason(error))
    for how in executions:
        try:
            entry[how] = settled(make(executed(model, how, mode), images, DTYPES[dtype]), images.device)
        except Exception as error:  # a model of others that cannot be compiled must not end a comparison
            entry[how] = reason(error)
    return entry


def settled(work: Work, device: torch.device) -> Prepared:
    """A call with its peak memory, after a first one that compiles and creates the optimizer state.

    Raises TimeoutError if it takes more than ``SLOWEST`` seconds.
    """
    work()
    start = time.perf_counter()
    memory = peak_memory(work, device)
    if (seconds := time.perf_counter() - start) > SLOWEST:
        raise TimeoutError(f"a call takes {seconds:.0f} s, more than {SLOWEST}")
    return Prepared(work, memory)


def timed(name: str, entry: Entry, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """The entry of a model in the result."""
    done = {how: made for how, made in entry.items() if isinstance(made, Prepared)}
    return {
        **{key: value for key, value in entry.items() if isinstance(value, int)},
        **{how: {"seconds": seconds[f"{name} {how}"], "memory": made.memory} for how, made in done.items()},
        "failed": {how: why for how, why in entry.items() if isinstance(why, str)},
    }


def reason(error: Exception) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextmanager
def own_compiler_cache() -> Iterator[None]:
    """Context in which torch.compile caches its files in a temporary folder.

    A run killed while it compiles leaves truncated files, which a later run must not read.
    """
    before = os.environ.get(CACHE)
    with TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE]
            if before is not None:
                os.environ[CACHE] = before


def executed(model: nn.Module, execution: str, mode: str) -> Any:
    """A copy of the model; if ``execution`` is ``compiled``, compiled whole for inference or by blocks for training."""
    copy: Any = deepcopy(model)
    if execution == COMPILED:
        for part in [copy] if mode == INFERENCE else copy.blocks:
            part.compile()
    return copy


def inference(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Work:
    """One forward pass in evaluation mode."""
    model, images = model.to(dtype).eval(), images.to(dtype)

    @torch.no_grad()
    def work() -> None:
        model(images)
        synchronize(images.device)

    return work


def training_step(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Work:
    """One AdamW step on one batch, with the faster of fused and unfused attention."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)
    labels = torch.arange(len(images), device=images.device)
    kind = images.device.type

    def work() -> None:
        autocast = torch.autocast(kind, dtype, enabled=dtype != torch.float32)
        with attention_for(model, kind, str(dtype).removeprefix("torch.")), autocast:
            logits = model(images)
        F.cross_entropy(logits.float(), labels % logits.shape[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(images.device)

    return work


def product(device: torch.device, dtype: torch.dtype) -> Work:
    """A square matrix product, 2·PRODUCT³ operations."""
    left, right, out = (torch.ones(PRODUCT, PRODUCT, device=device, dtype=dtype) for _ in range(3))

    def work() -> None:
        torch.mm(left, right, out=out)
        synchronize(device)

    return work


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

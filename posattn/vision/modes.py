"""Evaluation mode, single precision, or nothing compiled, for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

Types = Mapping[str, torch.dtype]  # of parameters and buffers
HALF = (torch.float16, torch.bfloat16)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode while it lasts, then every module in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # From the outside in, as train() sets what a module holds too. It may do more, as that of LoRA layers which
        # merge their weights in evaluation, and hold parts in a mode of their own: these are set last.
        for module, training in modes:
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training


@contextmanager
def in_single(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers of half precision are float32 while it lasts, then of the types they had."""
    before = to_single(model)
    try:
        yield
    finally:
        to_types(model, before)


def to_single(model: nn.Module) -> Types:
    """Make parameters and buffers of half precision float32, in place; returns the types of all before."""
    before = {name: tensor.dtype for name, tensor in tensors_of(model)}
    to_types(model, {name: torch.float32 for name, dtype in before.items() if dtype in HALF})
    return before


def to_types(model: nn.Module, types: Types) -> None:
    """Give the named parameters and buffers, as far as the model has them, other types in place."""
    for name, tensor in tensors_of(model):
        tensor.data = tensor.data.to(types.get(name, tensor.dtype))


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names."""
    return chain(model.named_parameters(), model.named_buffers())


def is_compiled(module: Any) -> bool:
    """Whether a module was compiled, by ``torch.compile(module)`` or by ``module.compile()``."""
    return (
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
    )


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Context in which compiled modules run eagerly, so that hooks and modes see them."""
    if not any(is_compiled(module) for module in model.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

"""Mixed precision in training, and attention that is fast in it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


def refuse_settings_of(accelerator: Accelerator) -> None:
    """Raise ValueError where accelerate has a precision or an accumulation of its own, as a config file of ``accelerate
    launch`` gives it: gradients would be others than the settings here say."""
    for name, ours in (("mixed_precision", "no"), ("gradient_accumulation_steps", 1)):
        if (theirs := getattr(accelerator, name)) != ours:
            raise ValueError(
                f"accelerate must have {name} {ours}, got {theirs}: start it with --{name} {ours}; "
                "precision and accumulation are settings of the training"
            )


@contextmanager
def attention_for(model: nn.Module, device: str, dtype: str) -> Iterator[None]:
    """Turn timm's fused attention off for a forward pass trained in bfloat16 on a CPU.

    torch's fused backward is slow there. CPU time of forward and backward, one thread of an AMD EPYC with native
    bfloat16, torch 2.14.1, fused and not: ViT of width 64 at 32 px in patches of 4, 486 and 196 ms; ViT-Tiny of two
    blocks at 224 px, 120 and 87 ms. In float32 and in inference, fused attention is faster.
    """
    active: list[Any] = []
    if device == "cpu" and dtype == "bfloat16":  # elsewhere the walk over the modules is a part of a step
        active = [m for m in model.modules() if getattr(m, "fused_attn", False) is True]
    for layer in active:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer in active:
            layer.fused_attn = True


@contextmanager
def refuse_wrong_convolutions(model: nn.Module, device: str, dtype: str) -> Iterator[None]:
    """While it lasts, a forward raises ValueError where torch would return a wrong gradient: on a CPU, in bfloat16,
    that of a padded convolution with a stride over an image of one pixel.

    torch 2.14.1 (oneDNN) leaves memory uninitialised there: gradients of a 3 x 3 kernel were up to 1e37, or NaN, in
    half of the trials. Patch embeddings have no padding and are right.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if (
                (device, dtype) == ("cpu", "bfloat16")
                and isinstance(module, nn.Conv2d)
                and max(module.stride) > 1
                and module.padding not in ((0, 0), "valid")
            ):
                hook = module.register_forward_pre_hook(partial(_refuse_one_pixel, name))
                stack.callback(hook.remove)
        yield


def _refuse_one_pixel(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if args[0].shape[-2:] == (1, 1) and torch.is_grad_enabled():
        message = "torch's bfloat16 gradient of a strided convolution over one pixel is wrong on a CPU"
        raise ValueError(f"{name}: {message}; train with precision float32")

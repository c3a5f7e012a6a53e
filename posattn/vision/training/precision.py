"""Mixed precision: what a training computes in, and attention that is fast in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def attention_for(model: nn.Module, device: str, dtype: str) -> Iterator[None]:
    """Turn timm's fused attention off for a forward that is trained in bfloat16 on a CPU.

    torch's fused backward is slow there. CPU time of forward and backward, one thread of an AMD EPYC with native
    bfloat16, torch 2.14.1, fused and not: ViT of width 64 at 32 px in patches of 4, 486 and 196 ms; ViT-Tiny of two
    blocks at 224 px, 120 and 87 ms. In float32, and in inference, fused attention is the faster.
    """
    layers: list[Any] = [m for m in model.modules() if getattr(m, "fused_attn", False) is True]
    active = layers if device == "cpu" and dtype == "bfloat16" else []
    for layer in active:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer in active:
            layer.fused_attn = True

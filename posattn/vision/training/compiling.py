"""torch.compile in training and evaluation, where there is a compiler."""

import os
import platform
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn


def compiler_of(device: str) -> str:
    """The name of what inductor compiles with for a kind of device; empty if it is not installed."""
    if device == "cuda":
        return "triton" if find_spec("triton") else ""
    name = os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++")
    return name if shutil.which(name) else ""


def compiled(model: nn.Module, graphs: bool = False) -> Any:
    """The model compiled for the shapes that it meets.

    Calls for one model share what was compiled. Batches of another size, as those of a test, are compiled
    apart: kernels for any size would be slower.

    Args:
        model: any module.
        graphs: replay it as CUDA graphs, as a small ViT computes for less time than launching its kernels takes.
    """
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)

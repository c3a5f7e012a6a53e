"""Σ_j S^h_ij V_j in every head as one Triton kernel: on a GPU, in half precision, without gradients.

A product of torch's needs the values copied head by head before, and the result copied back.
"""

import math
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.utils.flop_counter import register_flop_formula

ROWS, COLUMNS, KEYS = 128, 128, 32  # of a tile: the fastest of eight choices on an H100 for N = 64 to 1024
WIDEST = COLUMNS  # channels of a head
OPTIONS = {"num_warps": 4, "num_stages": 3}
PLAIN = (Tensor, torch.nn.Parameter)


@triton.jit
@no_type_check
def _product(
    maps,
    values,
    mixed,
    B,
    width,
    map_head,
    map_row,
    map_key,
    image,
    token,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    IMAGES: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """A tile of ROWS queries and the ``width`` channels of a head of IMAGES images."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    blocks = tl.cdiv(N, ROWS)  # of queries, which come one after the other as they share values
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, IMAGES * WIDTH)
    images, channels = tl.program_id(0) // blocks * IMAGES + columns // WIDTH, columns % WIDTH
    inside = (images < B) & (channels < width)
    sources = values + images.to(tl.int64) * image + head * width + channels
    total = tl.zeros((ROWS, IMAGES * WIDTH), tl.float32)
    for start in range(0, N, KEYS):
        keys = start + tl.arange(0, KEYS)
        weights = tl.load(
            maps + head * map_head + rows[:, None] * map_row + keys[None, :] * map_key,
            mask=(rows < N)[:, None] & (keys < N)[None, :],
            other=0.0,
        )
        tokens = tl.load(
            sources[None, :] + keys[:, None] * token, mask=inside[None, :] & (keys < N)[:, None], other=0.0
        )
        total = tl.dot(weights, tokens, total)
    targets = mixed + images.to(tl.int64) * N * heads * width + head * width + channels
    tl.store(
        targets[None, :] + rows[:, None] * heads * width,
        total.to(mixed.dtype.element_ty),
        mask=inside[None, :] & (rows < N)[:, None],
    )


def launch(
    kernel: Any, maps: Float[Tensor, "h N N"], values: Float[Tensor, "B N D"]
) -> Float[Tensor, "B N D"]:
    """The product by a kernel, ``_product`` or what ``wrap_triton`` makes of it; a head has at most WIDEST channels."""
    (B, N, D), h = values.shape, maps.shape[0]
    mixed = torch.empty((B, N, D), dtype=values.dtype, device=values.device)
    if values.stride(2) != 1:
        values = values.contiguous()
    width = D // h
    padded = max(16, triton.next_power_of_2(width))
    images = COLUMNS // padded
    grid = (triton.cdiv(N, ROWS) * triton.cdiv(B, images), h)
    kernel[grid](
        maps,
        values,
        mixed,
        B,
        width,
        *maps.stride(),
        *values.stride()[:2],
        N=N,
        WIDTH=padded,
        IMAGES=images,
        ROWS=ROWS,
        KEYS=KEYS,
        **OPTIONS,
    )
    return mixed


@triton_op("posattn::mix", mutates_args={})
def mix(maps: Tensor, values: Tensor) -> Tensor:
    """(B, N, h·d_h) of maps (h, N, N) and values (B, N, h·d_h) of one type, as an operator that torch can trace."""
    with torch.cuda.device_of(values):  # triton launches on the current GPU
        return launch(wrap_triton(_product), maps, values)


def multiply(maps: Tensor, values: Tensor) -> Tensor:
    """``mix``; in a plain eager call without torch's dispatcher, in which it spends more time than on the launch."""
    if torch.compiler.is_compiling() or not (type(maps) in PLAIN and type(values) in PLAIN):
        return mix(maps, values)
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return mix(maps, values)  # something counts or replaces operators
    with torch.cuda.device_of(values):
        return launch(_product, maps, values)


@register_flop_formula(torch.ops.posattn.mix)
def flops(maps: tuple[int, ...], values: tuple[int, ...], **_: Any) -> int:
    """For torch's FlopCounterMode, from the shapes."""
    return 2 * math.prod(values) * maps[-1]

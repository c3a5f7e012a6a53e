"""Σ_j S^h_ij V_j in every head: the product of positional attention.

Source: arXiv 2210.09221, positional attention.
"""

from importlib.util import find_spec
from typing import no_type_check

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor
from torch.autograd import forward_ad

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:
    # not where it is called: counters of operations look the operator up before
    from posattn.vision.models.kernel import WIDEST, multiply


@torch.fx.wrap
@register_notrace_function
@no_type_check  # traced and scripted
def mix_tokens(
    maps: Tensor,
    values: Tensor,
    indices: Tensor | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Σ_j S^h_ij V_j in every head, as one product per head over the whole batch.

    On a GPU in half precision and without gradients, a kernel of our own saves the two copies that order the values and
    the result head by head. On a CPU, large float32 maps are multiplied one head at a time: MKL gives each thread whole
    heads of a batched product, so with 3 heads one of two threads is idle half of the time.

    Args:
        maps: (h, N, N), or (h, N, k) with ``indices``.
        values: (B, N, h·d_h).
        indices: (h, N, k), the keys that the entries of pruned maps belong to, numbered through all heads.
        attn_mask, is_causal: refused, as the maps are constants of the model.

    Raises:
        ValueError: the maps are for another number of tokens, or a mask is given.
    """
    if attn_mask is not None or is_causal:
        raise ValueError("positional attention takes no mask: its maps are constants of the model")
    B, N, D = values.shape
    h = maps.shape[0]
    if maps.shape[1] != N:
        raise ValueError(f"attention maps are for {maps.shape[1]} tokens, got {N}")
    maps = maps.to(values.dtype)
    if not torch.jit.is_scripting():  # noqa: SIM102  (TorchScript compiles no more than this condition)
        if indices is None and takes_kernel(maps, values):
            return multiply(maps, values)
    columns = values.view(B, N, h, D // h).permute(2, 1, 0, 3).reshape(h, N, -1)
    if indices is None:
        if maps.device.type == "cpu" and maps.dtype == torch.float32 and N >= 512:
            heads = [(maps[i] @ columns[i]).view(N, B, D // h).transpose(0, 1) for i in range(h)]
            return torch.cat(heads, 2)
        mixed = maps @ columns
    else:
        weights = maps.flatten(0, 1)
        mixed = F.embedding_bag(
            indices.flatten(0, 1), columns.flatten(0, 1), per_sample_weights=weights, mode="sum"
        )
    return mixed.view(h, N, B, D // h).permute(2, 1, 0, 3).reshape(B, N, D)


@torch.jit.unused
@no_type_check
def takes_kernel(maps: Tensor, values: Tensor) -> bool:
    """Whether the kernel computes the product: in half precision on a GPU, without gradients, not to be exported."""
    if not (HAS_TRITON and values.is_cuda and values.dtype in (torch.float16, torch.bfloat16)):
        return False
    if not has_tensor_cores(values.device):
        return False
    if values.shape[-1] // maps.shape[0] > WIDEST:
        return False
    if torch.is_grad_enabled() and (maps.requires_grad or values.requires_grad):
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0  # as in jvp
    return not (transformed or torch.jit.is_tracing())


@torch.compiler.assume_constant_result
def has_tensor_cores(device: torch.device) -> bool:
    """Whether triton multiplies with the tensor cores of a GPU: NVIDIA's from Ampere on."""
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)

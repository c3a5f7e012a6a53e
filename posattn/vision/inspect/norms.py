"""Norms of the patches after each block: artefact tokens have norms far above those of the other patches.

Source: Darcet et al., Vision Transformers Need Registers (arXiv 2309.16588), section 2.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posattn.vision.grid import Layout

HIGH = 3.0  # times the median of its image: above, a patch counts as high-norm; the paper's artefacts have about 10
NORM_MEASURES = ("high_norm_share", "largest_norm")


def patch_norms(output: Any, images: int, layout: Layout) -> Float[Tensor, "n D"] | None:
    """The norms of the patches in the output of a block, in float32; None if it does not have the layer's tokens.

    Args:
        output: (n, N, c), (n, H, W, c) or (n, c, H, W), or a tuple that begins with one.
        images: n.
        layout: of the block's attention.
    """
    output = output[0] if isinstance(output, tuple) else output
    grid = layout.queries
    if not isinstance(output, Tensor) or len(output) != images or not layout.square:
        return None
    if output.ndim == 3 and output.shape[1] == grid.num_tokens:
        return output[:, grid.prefix :].float().norm(dim=-1)
    if output.ndim == 4 and not grid.prefix and grid.size in (output.shape[1:3], output.shape[2:]):
        return output.float().norm(dim=-1 if output.shape[1:3] == grid.size else 1).flatten(1)
    return None


def norm_measures(norms: Float[Tensor, "n D"]) -> Float[Tensor, "n 2 1"]:
    """Of each image, the share of the patches whose norm is above ``HIGH`` times the median, and the largest
    norm over the median."""
    median = norms.quantile(0.5, 1, keepdim=True).clamp(min=torch.finfo(norms.dtype).tiny)
    ratio = (norms / median).cpu().double()
    return torch.stack([(ratio > HIGH).double().mean(1), ratio.amax(1)], 1)[..., None]

"""torchvision's ``vit_*``: class token first, ``nn.MultiheadAttention`` in each encoder layer."""

from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn

from posattn.vision.grid import Grid
from posattn.vision.inspect.adapters.layer import AttentionLayer, GridSize, ImageSize, Tower


def find(model: nn.Module, prefix: str) -> Tower | None:
    """The tower of a model that holds torchvision's VisionTransformer; None without one."""
    for path, module in model.named_modules():
        if isinstance(module, torchvision.models.VisionTransformer):
            inside = f"{prefix}{path}." if path else prefix
            return Tower(model, layers_of(module, inside), positions=partial(positions, module))
    return None


def layers_of(vit: torchvision.models.VisionTransformer, prefix: str) -> list[AttentionLayer]:
    """Its attention layers, converted ones too."""
    side = vit.patch_size
    return [
        AttentionLayer(
            prefix + path,
            module,
            module.num_heads,
            1,
            vit.conv_proj,
            lambda image: (image[0] // side, image[1] // side),
        )
        for path, module in vit.named_modules()
        if is_attention(module)
    ]


def is_attention(module: nn.Module) -> bool:
    """Whether a module is the attention of a layer, or what a conversion puts there."""
    converted = hasattr(module, "num_heads") and hasattr(module, "attention_maps")
    return converted or isinstance(module, nn.MultiheadAttention)


def grid_of(patch_size: int, image: ImageSize) -> GridSize:
    """Whole patches of an image."""
    return image[0] // patch_size, image[1] // patch_size


def positions(vit: Any, grid: Grid, image: ImageSize) -> Tensor | None:
    """The embedding of the patches; torchvision never resamples it."""
    embedded: Tensor = vit.encoder.pos_embedding[0, 1:]
    return embedded if len(embedded) == grid.num_patches else None

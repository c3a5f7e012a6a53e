"""Hugging Face transformers: ViT, DeiT, BEiT, DINOv2, DINOv3, and the vision towers of CLIP, SigLIP and SAM.

They are known by their config, so that the library itself is never imported here.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from posattn.vision.grid import Grid
from posattn.vision.inspect.adapters.layer import AttentionLayer, GridSize, ImageSize, Tower, outermost_with

PREFIX: dict[str, Callable[[Any], int]] = {  # tokens before the patches, by model_type
    "vit": lambda config: 1,
    "vit_msn": lambda config: 1,
    "deit": lambda config: 2,
    "beit": lambda config: 1,
    "data2vec-vision": lambda config: 1,
    "dinov2": lambda config: 1,
    "dinov2_with_registers": lambda config: 1 + config.num_register_tokens,
    "dinov3_vit": lambda config: 1 + config.num_register_tokens,
    "clip_vision_model": lambda config: 1,
    "siglip_vision_model": lambda config: 0,
    "sam_vision_model": lambda config: 0,
}
UNKNOWN = "is of a model type whose tokens are not known: known are " + ", ".join(PREFIX)
HEADS = ("num_attention_heads", "num_heads")


def find(model: nn.Module, prefix: str) -> Tower | None:
    """The vision tower of a model of the library; None without one."""
    for path, module in model.named_modules():
        if of_library(module) and model_type(module) in PREFIX and entry_of(module) is not None:
            inside = f"{prefix}{path}." if path else prefix
            wrapped = not of_library(model, "transformers", "peft")
            return tower(module, inside, run=model if wrapped else module)
    return refused(model, prefix) if of_library(model) else None


def of_library(module: nn.Module, *names: str) -> bool:
    """Whether a module's class comes from one of these packages; default: transformers."""
    return type(module).__module__.split(".")[0] in (names or ("transformers",))


def model_type(module: Any) -> str | None:
    """The model type in the config of a module."""
    return getattr(getattr(module, "config", None), "model_type", None)


def entry_of(module: Any) -> Any:
    """The module that takes in the image."""
    return getattr(module, "embeddings", None) or getattr(module, "patch_embed", None)


def tower(owner: Any, prefix: str, run: nn.Module) -> Tower:
    """The layers of a vision transformer."""
    config, entry, layers = owner.config, entry_of(owner), []
    unobserved = {}
    for path, module in outermost_with(owner, *HEADS):
        if isinstance(module, nn.MultiheadAttention):
            unobserved[prefix + path] = "pools all tokens by a query of its own"
            continue
        heads = next(int(getattr(module, name)) for name in HEADS if hasattr(module, name))
        around = owner.get_submodule(path.rpartition(".")[0])
        layers.append(
            AttentionLayer(
                prefix + path,
                module,
                heads,
                PREFIX[config.model_type](config),
                entry,
                partial(grid_of, config.patch_size),
                window=(side, side) if (side := getattr(around, "window_size", 0)) else None,
            )
        )
    return Tower(run, layers, unobserved, partial(positions, owner))


def refused(model: nn.Module, prefix: str) -> Tower | None:
    """A model of the library that no table line covers: its attention is named, and why it is not observed."""
    found = [path for path, _ in outermost_with(model, *HEADS)]
    reason = f"{type(model).__name__} ({model_type(model)}) {UNKNOWN}"
    return Tower(model, [], {prefix + path: reason for path in found}) if found else None


def grid_of(patch_size: int | tuple[int, int], image: ImageSize) -> GridSize:
    """Whole patches of an image."""
    rows, columns = sides_of(patch_size)
    return image[0] // rows, image[1] // columns


def sides_of(patch_size: int | tuple[int, int]) -> tuple[int, int]:
    """The pixels (down, across) of a patch."""
    return (patch_size, patch_size) if isinstance(patch_size, int) else patch_size


def positions(owner: Any, grid: Grid, image: ImageSize) -> Tensor | None:
    """The embedding of the patches, resampled where the model does so; None where positions enter otherwise."""
    embeddings = getattr(owner, "embeddings", None)
    if embeddings is None:  # SAM: (1, H, W, d), never resampled
        held = getattr(owner, "pos_embed", None)
        return held.flatten(1, 2)[0] if held is not None and tuple(held.shape[1:3]) == grid.size else None
    table = getattr(embeddings, "position_embeddings", getattr(embeddings, "position_embedding", None))
    if table is None or not hasattr(embeddings, "interpolate_pos_encoding"):
        return None
    weight = table.weight if isinstance(table, nn.Embedding) else table[0]
    on_request = "interpolate_pos_encoding" in signature(embeddings.forward).parameters
    if on_request and len(weight) == grid.num_tokens:  # else the table would be taken for that of a square
        return weight[grid.prefix :]
    tokens = torch.zeros(1, grid.num_tokens - extra_prefix(owner), weight.shape[-1]).to(weight)
    # by the grid, as a wrapper may resize the image
    rows, columns = sides_of(owner.config.patch_size)
    embedded: Tensor = embeddings.interpolate_pos_encoding(tokens, grid.height * rows, grid.width * columns)
    return embedded[0, -grid.num_patches :]


def extra_prefix(owner: Any) -> int:
    """Registers, which are put in after the positions are added."""
    return getattr(owner.config, "num_register_tokens", 0)


def mean_and_std(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What an image processor takes off pictures in [0, 1], and divides them by, channel by channel."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255
    if not processor.do_normalize:
        return (0.0,) * 3, (1 / scale,) * 3
    return tuple(m / scale for m in processor.image_mean), tuple(s / scale for s in processor.image_std)

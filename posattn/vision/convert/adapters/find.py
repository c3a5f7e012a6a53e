"""The adapter of a model, or why it cannot be converted."""

from torch import nn

from posattn.vision.convert.adapters import timm, torchvision, transformers
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.inspect.adapters.find import find_attention

KNOWN = "ViTs of timm and torchvision, and ViT, DeiT, ViT-MSN and DINOv2 of transformers"


def adapter_of(model: nn.Module) -> ViT:
    """What conversion needs of a model.

    Raises:
        TypeError: it cannot be converted; the module is named, and why.
    """
    for library in (transformers, torchvision, timm):
        found = library.find(model)
        if found is not None:
            return found
    raise refusal(model)


def refusal(model: nn.Module) -> TypeError:
    """Why a model cannot be converted, as far as an inspection knows its layers."""
    if not isinstance(model, nn.Module):
        return TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    try:
        layer = find_attention(model).layers[0]
    except ValueError as error:
        return TypeError(f"{type(model).__name__} is not supported: {error}")
    reason = f"conversion knows {KNOWN}"
    if layer.windowed:
        reason = "it attends within windows"
    elif layer.pooled:
        reason = "it attends over pooled tokens"
    return TypeError(
        f"{layer.path} ({type(layer.module).__name__}) of {type(model).__name__} is not supported: {reason}"
    )

"""The attention layers of a model that can be converted, and why others cannot."""

import math
from typing import Any

from torch import nn

from posattn.vision.convert.adapters.attention import OfTorchvision, OfTransformers
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.parts import READERS, computed
from posattn.vision.inspect.adapters.timm import DIFFERENTIAL, LOOSE, REFUSED
from posattn.vision.models.attention import PositionalAttention

LINEAR = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)  # the latter in nn.MultiheadAttention


def attention_of(model: nn.Module) -> dict[int, nn.Module]:
    """The attention layer of each block, but for those that are positional by construction.

    Raises:
        TypeError: heads of the model cannot be replaced; the module is named.
        ValueError: it has converted heads already, or its tokens vary by image.
    """
    vit, layers = adapter_of(model), {}
    for number, block in enumerate(vit.blocks):
        attn, path = vit.attention(number), f"{vit.path}.{number}"
        if attn is None:
            raise TypeError(
                f"{path} ({type(block).__name__}) is not supported: it has no {vit.slot} to replace"
            )
        if not isinstance(attn, PositionalAttention):
            check_layer(vit, attn, f"{path}.{vit.slot}")
            layers[number] = attn
    refuse_varying_tokens(model)
    return layers


def check_layer(vit: ViT, attn: Any, path: str) -> None:
    """Raise what ``attention_of`` raises of one layer."""
    if hasattr(attn, "kinds") or isinstance(attn, OfTransformers | OfTorchvision):
        raise ValueError(f"{path} has converted heads already: convert the original model")
    for name in (*vit.projections, "norm"):
        layer = getattr(attn, name, None)
        if name in vit.projections and layer is not None and type(layer) not in LINEAR:
            raise TypeError(
                f"{path}.{name} ({type(layer).__name__}) is not supported: it must be a plain linear layer; "
                "merge adapters into it, and quantise after the conversion"
            )
        if layer is not None and (which := computed(layer)):
            raise TypeError(
                f"{path}.{name} ({type(layer).__name__}) is not supported: its {which} is computed from other tensors; "
                "make pruning permanent and remove parametrizations"
            )
    if reason := reason_against(vit, attn):
        raise TypeError(f"{path} ({type(attn).__name__}) is not supported: {reason}")
    refuse_added(attn, path)


def reason_against(vit: ViT, attn: Any) -> str | None:
    """Why the heads of a layer cannot be replaced; None if they can."""
    name = type(attn).__name__
    if name in REFUSED or name in LOOSE:
        return f"it {REFUSED.get(name) or LOOSE[name]}"
    if name in DIFFERENTIAL:
        return "each of its heads has two softmaxes"
    if missing := [part for part in vit.required if getattr(attn, part, None) is None]:
        return f"it has no {missing[0]}, as {vit.since}"
    if type(vit.plain(attn)) not in READERS:
        return f"it is none of {', '.join(sorted({kind.__name__ for kind in READERS}))}"
    if (scale := scale_of(attn)) is not None:
        heads_width = getattr(attn, vit.projections[-1]).in_features // count_heads(attn)
        if not isinstance(scale, float) or not math.isclose(scale, heads_width**-0.5, rel_tol=1e-6):
            return f"it scales its scores by {scale}, not by 1/sqrt({heads_width}): scale the weights of Q instead"
    return None


def scale_of(attn: Any) -> Any:
    """What a layer multiplies its scores by, as it says itself; None if it leaves that to fused attention."""
    if hasattr(attn, "scaling"):  # in transformers
        return attn.scaling
    return None if getattr(attn, "fused_attn", True) else getattr(attn, "scale", None)


def refuse_added(attn: nn.Module, path: str) -> None:
    """Raise TypeError for what was added to an attention layer and would be lost with it."""
    for name, module in attn.named_modules():
        if added := added_to(module):
            raise TypeError(
                f"{path}{'.' if name else ''}{name} ({type(module).__name__}) is not supported: conversion would lose "
                f"its {added}; remove it, or put its effect into the weights"
            )


def added_to(module: nn.Module) -> str | None:
    """Which of a forward of its own and forward hooks a module has, beside those of accelerate and transformers."""
    if hasattr(module, "_hf_hook"):  # of accelerate: it moves weights
        return None
    if "forward" in vars(module):
        return "own forward"
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    # those of transformers keep outputs
    added = any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks)
    return "forward hook" if added else None


def count_heads(attn: Any) -> int:
    """The number of heads of a layer."""
    count = attn.num_heads if hasattr(attn, "num_heads") else attn.num_attention_heads
    return int(count)


def refuse_varying_tokens(model: Any) -> None:
    """Raise ValueError if the number of tokens varies by image, which constant maps cannot follow."""
    if getattr(model, "dynamic_img_size", False):
        raise ValueError(
            "dynamic_img_size=True: tokens vary by image; create the model with dynamic_img_size=False and img_size"
        )
    rate = getattr(getattr(model, "patch_drop", None), "prob", 0)
    if rate > 0:
        raise ValueError(f"patch_drop_rate={rate}: tokens vary by image; create the model without")

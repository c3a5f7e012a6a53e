"""What other libraries give on the ViT-S/14 of docs/inspect.md: run it to check the lines of the table there.

python tests/peers.py model.safetensors val/  (with captum, fast-vit-rollout and vit-prisma installed, each optional)
"""

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform
from timm.utils import AttentionExtract
from torch import Tensor, nn

from posattn.vision.data.pictures import Pictures
from posattn.vision.inspect.inspection import inspect_model
from posattn.vision.inspect.rollout import attention_rollout
from posattn.vision.models.state_dicts import load_checkpoint, read_checkpoint

DEPTH, HEADS, WIDTH = 12, 6, 384


def vit(weights: Path, fused: bool = True) -> Any:
    """ViT-S/14 at 224 px."""
    model: Any = timm.create_model("vit_small_patch14_dinov2", img_size=224).eval()
    load_checkpoint(model, read_checkpoint(weights))
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model


def maps_of(model: Any, images: Tensor) -> list[Tensor]:
    """The maps (n, h, N, N) of each block, by unfused attention."""
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    model(images)
    return maps


def deviation(found: list[Tensor], truth: list[Tensor]) -> str:
    """How far maps are from the true ones."""
    if not found:
        return "no maps"
    worst = max(float((a - b).abs().max()) for a, b in zip(found, truth, strict=True))
    return f"{len(found)} x {tuple(found[0].shape)}, off by at most {worst:.1e}"


def attention_extract(model: nn.Module, images: Tensor, truth: list[Tensor], method: str) -> str:
    return deviation(list(AttentionExtract(model, method=method)(images).values()), truth)


def fast_vit_rollout(model: nn.Module, images: Tensor, truth: list[Tensor]) -> str:
    from fast_vit_rollout import ViTAttentionRollout

    rollout = ViTAttentionRollout(model, discard_ratio=0.0)
    found, picture = rollout(images, (images - images.min()) / (images.max() - images.min()), return_vis=True)
    return (
        f"{deviation([found[0]], [attention_rollout([maps[0] for maps in truth])])}; picture {picture.shape}"
    )


def captum(model: Any, images: Tensor, truth: list[Tensor]) -> str:
    from captum.attr import LayerActivation

    return deviation(
        [LayerActivation(model, block.attn.attn_drop).attribute(images) for block in model.blocks], truth
    )


def transformers(model: Any, images: Tensor, truth: list[Tensor], attention: str) -> str:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    config = Dinov2Config(**sizes, image_size=224, patch_size=14)
    ported: Any = Dinov2Model._from_config(config, attn_implementation=attention).eval()
    missing = ported.load_state_dict(hugging_face_names(model.state_dict()), strict=False).missing_keys
    assert missing == ["embeddings.mask_token"]
    found = [maps for maps in ported(images, output_attentions=True).attentions if maps is not None]
    return deviation(found, truth)


def hugging_face_names(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights under the names of transformers."""
    names = {
        "attn.proj": "attention.o_proj",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    outer = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    found = {}
    for name, value in held.items():
        for ours, theirs in (*names.items(), ("blocks.", "encoder.layer.")):
            name = name.replace(ours, theirs)
        name = outer.get(name, name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection"))
        name = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        parts = value.chunk(3) if "attn.qkv" in name else (value,)
        for part, letter in zip(parts, "qkv" if len(parts) > 1 else "_", strict=True):
            found[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
    return found


def vit_prisma(model: Any, images: Tensor, truth: list[Tensor]) -> str:
    """Its own model, with the weights put in by hand: it loads its listed models from the hub alone."""
    from vit_prisma.configs.HookedViTConfig import HookedViTConfig
    from vit_prisma.models.base_vit import HookedViT

    sizes = {
        "n_layers": DEPTH,
        "d_model": WIDTH,
        "d_head": WIDTH // HEADS,
        "d_mlp": 4 * WIDTH,
        "n_heads": HEADS,
    }
    ported: Any = HookedViT(HookedViTConfig(**sizes, patch_size=14, image_size=224, n_classes=2)).eval()
    result = ported.load_state_dict(prisma_names(model.state_dict()), strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
    assert all(key.startswith("head.") for key in result.missing_keys), result.missing_keys
    _, cache = ported.run_with_cache(images)
    return deviation([cache[f"blocks.{i}.attn.hook_pattern"] for i in range(DEPTH)], truth)


def prisma_names(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights under the names of vit-prisma, LayerScale multiplied into the projections."""
    found = {"cls_token": held["cls_token"], "pos_embed.W_pos": held["pos_embed"][0]}
    for end in ("weight", "bias"):
        found[f"embed.proj.{end}"] = held[f"patch_embed.proj.{end}"]
        found[f"ln_final.{end[0]}"] = held[f"norm.{end}"]
    for i in range(DEPTH):
        block = {name.removeprefix(f"blocks.{i}."): value for name, value in held.items()}
        for letter, weight, bias in zip(
            "QKV", block["attn.qkv.weight"].chunk(3), block["attn.qkv.bias"].chunk(3), strict=True
        ):
            found[f"blocks.{i}.attn.W_{letter}"] = weight.unflatten(0, (HEADS, -1)).mT
            found[f"blocks.{i}.attn.b_{letter}"] = bias.unflatten(0, (HEADS, -1))
        scaled = block["attn.proj.weight"] * block["ls1.gamma"][:, None]
        found[f"blocks.{i}.attn.W_O"] = scaled.T.unflatten(0, (HEADS, -1))
        found[f"blocks.{i}.attn.b_O"] = block["attn.proj.bias"] * block["ls1.gamma"]
        found[f"blocks.{i}.mlp.W_in"], found[f"blocks.{i}.mlp.b_in"] = (
            block["mlp.fc1.weight"].T,
            block["mlp.fc1.bias"],
        )
        found[f"blocks.{i}.mlp.W_out"] = (block["mlp.fc2.weight"] * block["ls2.gamma"][:, None]).T
        found[f"blocks.{i}.mlp.b_out"] = block["mlp.fc2.bias"] * block["ls2.gamma"]
        for number in "12":
            for end in ("weight", "bias"):
                found[f"blocks.{i}.ln{number}.{end[0]}"] = block[f"norm{number}.{end}"]
    return found


def ours(model: nn.Module, images: Tensor, truth: list[Tensor]) -> str:
    inspection = inspect_model(model, images, examples=len(images))
    found = [torch.from_numpy(inspection.maps(layer)) for layer in range(DEPTH)]
    return deviation(found, [maps.mean(0) for maps in truth])


def told(name: str, call: Callable[[], str]) -> None:
    """Print what a call gives, or its error."""
    try:
        print(f"{name}: {call()}")
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {str(error).split(chr(10))[0][:160]}")


@torch.no_grad()
def main(weights: Path, pictures: str) -> None:
    """A line for each library, attention fused and not."""
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=1.0)
    images = torch.stack([transform(picture) for picture in Pictures(pictures, limit=2)])
    truth = maps_of(vit(weights, fused=False), images)
    for fused in (True, False):
        state = "fused" if fused else "unfused"
        for method in ("fx", "hook"):
            told(
                f"timm AttentionExtract {method}, {state}",
                lambda f=fused, m=method: attention_extract(vit(weights, f), images, truth, m),
            )
        for give in (fast_vit_rollout, captum, ours):
            told(f"{give.__name__}, {state}", lambda f=fused, g=give: g(vit(weights, f), images, truth))
        attention = "sdpa" if fused else "eager"
        told(f"transformers, {attention}", lambda a=attention: transformers(vit(weights), images, truth, a))
    told("vit_prisma", lambda: vit_prisma(vit(weights), images, truth))
    for package in ("timm", "fast-vit-rollout", "captum", "transformers", "vit-prisma", "torch"):
        told(package, lambda p=package: importlib.metadata.version(p))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""Maps seen under fused attention, against those that unfused attention computes by itself."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn.vision.convert.maps import to_positional
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.lazy import FromQueries
from posattn.vision.inspect.watch import watch_attention

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {}),
    "registers and qk-norm": ("vit_tiny_patch16_224", {"reg_tokens": 4, "qk_norm": True}),
    "average pooling": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "attention pooling": ("vit_base_patch16_siglip_224", {}),
    "deit": ("deit_tiny_patch16_224", {}),
    "distilled deit": ("deit_tiny_distilled_patch16_224", {}),
    "parallel": ("vit_tiny_patch16_224", {"block_fn": timm.models.vision_transformer.ParallelScalingBlock}),
    "beit": ("beit_base_patch16_224", {}),
    "beit, shared bias": (
        "beit_base_patch16_224",
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "eva, rotary": ("eva02_tiny_patch14_224", {"patch_size": 16}),
    "eva, separate q and k": ("eva02_base_patch14_224", {"patch_size": 16}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "relpos table": ("vit_relpos_small_patch16_224", {"rel_pos_type": "bias"}),
    "relpos MLP": ("vit_relpos_small_patch16_224", {}),
    "relpos, shared": ("vit_srelpos_small_patch16_224", {"rel_pos_dim": 16}),
    "relpos, class token": ("vit_relpos_medium_patch16_cls_224", {"rel_pos_dim": 16}),
}
REFUSED = {
    "mobilevit_xxs": (64, r"\(Attention\) is not supported: it attends within groups of 16 tokens"),
    "xcit_nano_12_p16_224": (224, "XCA attends among channels"),
    "hiera_tiny_224": (224, "MaskUnitAttention attends within mask units"),
    "coat_tiny": (224, "FactorAttnConvRelPosEnc normalises its keys over tokens"),
}


def make(name: str, **options: Any) -> nn.Module:
    """A model whose attention is far from uniform and whose biases matter."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def attention_layers(model: nn.Module) -> dict[str, Any]:
    """The attention modules of a model by path."""
    return {layer.path: layer.module for layer in find_attention(model).layers}


def images(n: int = 3, size: int = 64) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def seen(model: nn.Module, pictures: Any) -> dict[str, Tensor]:
    """All maps of a pass, by layer."""
    maps: dict[str, list[Tensor]] = {}
    layers = attention_layers(model)
    watch_attention(model, pictures, layers, lambda path, each, batch: maps.setdefault(path, []).append(each))
    return {path: torch.cat(parts) for path, parts in maps.items()}


def unfused(model: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
    """What every layer's own dropout receives when it is not fused: its softmax."""
    maps: dict[str, Tensor] = {}
    for path, layer in attention_layers(model).items():
        layer.fused_attn = False
        layer.attn_drop.register_forward_pre_hook(lambda _, inputs, path=path: maps.update({path: inputs[0]}))
    with torch.no_grad():
        model(pictures)
    return maps


@pytest.mark.parametrize("kind", MODELS)
def test_maps_are_those_of_unfused_attention(kind: str) -> None:
    name, options = MODELS[kind]
    model = make(name, img_size=64, **SMALL, **options)
    found = seen(model, images())
    expected = unfused(model, images())
    assert list(found) == list(expected) == list(attention_layers(model))
    for path, maps in expected.items():
        assert maps.shape[-1] >= 16
        assert maps.std() > 1e-3, "an attention that is uniform tests nothing"
        torch.testing.assert_close(found[path], maps, atol=1e-5, rtol=0)


def test_a_model_is_left_as_it_was() -> None:
    model = make("vit_tiny_patch16_224", img_size=64, **SMALL).train()
    model.blocks[1].attn.fused_attn = False
    before = model.state_dict()
    found = seen(model, images())
    assert len(found) == 2
    assert model.training
    assert model.blocks[0].attn.fused_attn
    assert not model.blocks[1].attn.fused_attn
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_positional_and_converted_heads_are_seen() -> None:
    ours = make("vit_posattn_tiny_patch16_224", img_size=64, **SMALL)
    found = seen(ours, images())
    torch.testing.assert_close(torch.cat(list(found.values())), ours.attention_maps().detach())
    vit = make("vit_tiny_patch16_224", img_size=64, **SMALL)
    maps = seen(vit, images())["blocks.0.attn"]
    mixed = to_positional(vit, images(), heads={0: [2]})
    first = seen(mixed, images())["blocks.0.attn"]
    expected = torch.cat([maps[:, :2], maps[:, 2:].mean(0, keepdim=True).expand(3, -1, -1, -1)], 1)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_other_attention_is_refused_by_its_path(name: str) -> None:
    size, reason = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=reason):
        seen(timm.create_model(name).eval(), images(2, size))


def test_no_attention_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="ResNet has no attention"):
        attention_layers(timm.create_model("resnet18"))
    vit = make("vit_tiny_patch16_224", img_size=64, **SMALL)
    with pytest.raises(ValueError, match="images must be 64x64 for this model, got 32x32"):
        seen(vit, images(2, 32))
    with pytest.raises(ValueError, match=r"\(n, c, H, W\), got \(3, 64, 64\)"):
        seen(vit, images()[0])


@pytest.mark.parametrize("mask", ["none", "boolean", "additive", "causal"])
@pytest.mark.parametrize("groups", [4, 2])
def test_maps_from_queries_mix_as_fused_attention_does(
    mask: str, groups: int, generator: torch.Generator
) -> None:
    query = torch.randn(2, 4, 5, 8, generator=generator, dtype=torch.double)
    key, value = (torch.randn(2, groups, 5, 8, generator=generator, dtype=torch.double) for _ in range(2))
    options: dict[str, Any] = {"scale": 0.7, "enable_gqa": groups != 4}
    if mask == "causal":
        options["is_causal"] = True
    elif mask != "none":
        additive = torch.randn(2, 1, 5, 5, generator=generator, dtype=torch.double)
        options["attn_mask"] = (
            (additive > 0) | torch.eye(5, dtype=torch.bool) if mask == "boolean" else additive
        )
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    maps = FromQueries(query, key, value, **options).whole()
    torch.testing.assert_close(maps @ value.repeat_interleave(4 // groups, 1), expected)

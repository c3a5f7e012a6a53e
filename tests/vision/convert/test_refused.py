"""Models of transformers and torchvision, images and masks that a conversion refuses, in one line."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from library_vits import images, make, run
from small_vits import TRANSFORMERS_SIZE
from torch import nn
from torch.nn.utils import parametrizations, prune

import posattn
from posattn.vision.convert.heads import KINDS
from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.refit import refit
from posattn.vision.models.freeze import freeze_attention


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "options"), [("dinov2", {}), ("vit", {"interpolate_pos_encoding": True})])
def test_another_grid_of_as_many_patches_is_refused(
    name: str, options: dict[str, bool], kind: str, tmp_path: Path
) -> None:
    """8 x 2 patches by maps of 4 x 4; a loaded model refuses them too, at its own size if that was changed."""
    vit, other = make(name), torch.randn(3, 3, 32, 8)
    model = to_positional(vit, images(), kind=kind)
    posattn.save(model, tmp_path)
    assert vit(other, **options).last_hidden_state.shape == (3, 17, 24)
    message = "images must be of the model's size, 16 x 16 px, got 32 x 8"
    for one in (model, posattn.load(tmp_path), freeze_attention(model)):
        with pytest.raises(ValueError, match=message):
            one(other, **options)
    with pytest.raises(ValueError, match=message):
        to_positional(vit, [images(), other], kind=kind)
    if kind != "table":
        with pytest.raises(ValueError, match="24 x 24 px, got 16 x 16"):
            posattn.load(tmp_path, img_size=24)(images(), **options)


def test_a_mask_is_refused() -> None:
    model = to_positional(make("vit"), images())
    with pytest.raises(ValueError, match="positional attention takes no mask"):
        model(images(), attention_mask=torch.tensor([[1] * 16 + [0]] * 3))
    eager = make("vit")
    eager.set_attn_implementation("eager")
    assert run(to_positional(eager, images()), images()).shape == (3, 17, 24)


@pytest.mark.parametrize("name", ["vit", "vit classifier"])
def test_a_mask_is_refused_in_exports(name: str, tmp_path: Path) -> None:
    """Where its values are not known, and the library makes one even if none is given; of loaded models too."""
    vit = make(name)
    model = to_positional(vit, images(), blocks=[0])
    posattn.save(model, tmp_path)
    mask = {"attention_mask": torch.tensor([[1] * 16 + [0]] * 3)}
    message = "takes no mask: export the model without attention_mask"
    for one in (model, posattn.load(tmp_path), freeze_attention(model)):
        with pytest.raises(ValueError, match=message):
            torch.export.export(one, (images(),), mask)
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        torch.onnx.export(model, (images(),), tmp_path / "a.onnx", kwargs=mask, dynamo=True, verbose=False)
    assert message in str(error.value.__cause__)
    assert not (tmp_path / "a.onnx").exists()
    torch.export.export(vit, (images(),), mask)  # the original takes it


def old_layout() -> nn.Module:
    """Attention without ``q_proj``, as transformers had it before version 5."""
    model = make("dinov2")
    for layer in model.encoder.layer:
        del layer.attention.q_proj
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TRANSFORMERS_SIZE)),
            r"layers.0.self_attn \(CLIPAttention\) of CLIPVisionModel is not supported: conversion knows",
        ),
        (
            old_layout,
            r"encoder.layer.0.attention \(Dinov2Attention\) is not supported: it has no q_proj, .* transformers 5",
        ),
        (lambda: nn.Linear(3, 4), "Linear is not supported"),
    ],
)
def test_what_is_refused(model, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        to_positional(model(), images())


def test_converted_twice_and_adapters() -> None:
    for name in ("vit", "torchvision"):
        with pytest.raises(ValueError, match=r"layers\.\w*0\.\w*attention has converted heads already"):
            to_positional(to_positional(make(name), images(), blocks=[0]), images())
    vit = make("dinov2")
    vit.encoder.layer[1].attention.v_proj = nn.Sequential(vit.encoder.layer[1].attention.v_proj)
    with pytest.raises(TypeError, match=r"encoder.layer.1.attention.v_proj \(Sequential\) .* merge adapters"):
        to_positional(vit, images())


def test_a_convolutional_stem_cannot_be_built_again(tmp_path: Path) -> None:
    stem = [torchvision.models.vision_transformer.ConvStemConfig(8, 3, 2)] * 2
    vit = torchvision.models.VisionTransformer(
        16, 4, 1, 3, 24, 32, num_classes=5, conv_stem_configs=stem
    ).eval()
    model = to_positional(vit, images())
    with pytest.raises(
        TypeError, match=r"conv_proj \(Sequential\) is not supported: it cannot be built again"
    ):
        posattn.save(model, tmp_path)


@pytest.mark.parametrize("name", ["qkv", "proj"])
@pytest.mark.parametrize("how", ["pruned", "parametrised"])
def test_weights_that_are_computed_are_refused(name: str, how: str) -> None:
    """Heads were put in another order, but not the mask of what was pruned."""
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2).eval()
    layer = getattr(vit.requires_grad_(False).blocks[1].attn, name)
    if how == "pruned":
        prune.random_unstructured(layer, "weight", amount=0.5)
    else:
        parametrizations.weight_norm(layer)
    message = "its weight is computed from" if how == "pruned" else "it must be a plain linear layer"
    with pytest.raises(TypeError, match=rf"blocks.1.attn.{name} \(.*Linear\) is not supported: {message}"):
        to_positional(vit, images(), heads={1: [2]})
    if how == "pruned":
        prune.remove(layer, "weight")
        to_positional(vit, images(), heads={1: [2]})


def test_a_refit_of_computed_weights_is_refused() -> None:
    """The next forward pass would compute them anew."""
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=1).eval()
    model = to_positional(vit, images())
    prune.random_unstructured(model.blocks[0].mlp.fc2, "bias", amount=0.5)
    with pytest.raises(
        TypeError, match="block 0 cannot be refitted: the bias that its MLP ends with is computed"
    ):
        refit(model, vit, [torch.randn(8, 3, 16, 16)])


def test_a_model_with_a_pruned_mlp_is_converted_and_not_saved(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2).eval()
    layer = vit.blocks[0].mlp.fc1
    prune.random_unstructured(layer, "weight", amount=0.5)
    changed = to_positional(vit, images(), heads={1: [2]})
    assert changed.blocks[0].mlp.fc1.weight_mask is not layer.weight_mask
    with pytest.raises((TypeError, ValueError), match=r"blocks\.0\.mlp\.fc1\.weight"):
        posattn.save(changed, tmp_path)
    prune.remove(layer, "weight")
    expected = to_positional(vit, images(), heads={1: [2]})
    with torch.no_grad():
        torch.testing.assert_close(changed(images()), expected(images()))


def knocked_out(attn: nn.Module) -> None:
    """Without the second head, as interpretability experiments do it."""
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda _, given, maps: maps * torch.tensor([1, 0])[:, None, None])


def patched(attn: nn.Module) -> None:
    """With a forward in place of that of its class."""
    before = attn.forward
    attn.forward = lambda x, **options: 2 * before(x, **options)


def hotter(attn: nn.Module) -> None:
    """With another scale of the scores."""
    attn.fused_attn, attn.scale = False, 2 * attn.scale


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda attn: attn.register_forward_hook(lambda _, x, y: 2 * y),
            r"blocks.1.attn \(Attention\).*forward hook",
        ),
        (
            lambda attn: attn.qkv.register_forward_pre_hook(lambda _, x: (2 * x[0],)),
            r"attn.qkv.*forward hook",
        ),
        (knocked_out, r"attn.attn_drop \(Dropout\).*forward hook"),
        (patched, "would lose its own forward"),
        (hotter, r"scales its scores by 1.0, not by 1/sqrt\(4\)"),
    ],
)
def test_changes_that_a_conversion_would_lose_are_refused(change: Any, message: str) -> None:
    """Heads that stay content-based lost them without a word."""
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    vit = timm.create_model("vit_tiny_patch16_224", **options)
    change(vit.blocks[1].attn)
    with pytest.raises(TypeError, match=message):
        to_positional(vit, images(), blocks=[0])


def test_hooks_of_transformers_and_of_accelerate_are_no_changes() -> None:
    """The library's own, after it gave attention, keep outputs; accelerate's move weights."""
    vit = make("vit")
    vit.set_attn_implementation("eager")
    vit(images(), output_attentions=True)
    add_hook_to_module(vit.layers[0].attention, AlignDevicesHook("cpu"))
    assert to_positional(vit, images()) is not vit


def test_the_scale_of_transformers_is_not_lost() -> None:
    vit = make("vit")
    vit.layers[0].attention.scaling *= 2
    with pytest.raises(TypeError, match="it scales its scores by"):
        to_positional(vit, images())

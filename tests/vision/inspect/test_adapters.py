"""Models of each library: maps against those that the library itself gives, or that written-out attention computes."""

import copy
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import torchvision
from inspected_models import SMALL, TIMM, TRANSFORMERS
from torch import Tensor, nn

from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.inspection import inspect_attention, inspect_model
from posattn.vision.inspect.watch import observe

OPTIONAL = "is an optional library"


def disturbed(model: nn.Module, noise: float = 0.2) -> Any:
    """Far from uniform attention, and biases that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(n: int = 3, *size: int) -> Tensor:
    return torch.randn(n, 3, *(size or (32, 32)), generator=torch.Generator().manual_seed(1))


def seen(model: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
    """All maps of a pass, by layer; without layers that are refused."""
    tower, maps = find_attention(model), {}
    layers = {layer.path: layer for layer in tower.layers}
    observe(
        model,
        tower.run,
        pictures,
        layers,
        lambda path, each, layout, batch: maps.update({path: each.whole()}),
        refuse=lambda path, error: None,
    )
    return maps


def same_maps(found: dict[str, Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for maps, truth in zip(found.values(), expected, strict=True):
        assert truth.std() > 1e-3, "an attention that is uniform tests nothing"
        torch.testing.assert_close(maps, truth.view(maps.shape), atol=1e-5, rtol=0)


def test_torchvision() -> None:
    torch.manual_seed(0)
    model = disturbed(torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=5))
    expected: list[Tensor] = []
    plain = copy.deepcopy(model)
    for block in plain.encoder.layers:
        block.self_attention.register_forward_pre_hook(
            lambda layer, inputs, options: expected.append(
                layer.forward(*inputs, **{**options, "need_weights": True, "average_attn_weights": False})[1]
            ),
            with_kwargs=True,
        )
    with torch.no_grad():
        output = plain(images())
    for wrapped in (model, nn.Sequential(model)):
        same_maps(seen(wrapped, images()), expected)
    torch.testing.assert_close(model(images()), output)
    table = inspect_attention(model, images())
    assert table.attrs["grid"] == [4, 4]
    assert table[table.measure == "prefix_share"].value.between(0.001, 0.5).all()
    assert (table.measure == "pos_embed_similarity").any()


def of_transformers(name: str, attention: str) -> Any:
    transformers = pytest.importorskip("transformers", reason=f"transformers {OPTIONAL}")
    kind, config, options, _ = TRANSFORMERS[name]
    torch.manual_seed(0)
    made = getattr(transformers, config)(**options)
    return disturbed(getattr(transformers, kind)._from_config(made, attn_implementation=attention))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    """Under sdpa and eager attention, against the maps that the library gives under eager attention."""
    eager, prefix = of_transformers(name, "eager"), TRANSFORMERS[name][3]
    inner = eager.vision_model if name == "CLIP" else eager
    with torch.no_grad():
        expected = list(inner(pixel_values=images(), output_attentions=True).attentions)
    for model in (eager, of_transformers(name, "sdpa"), nn.DataParallel(eager)):
        same_maps(seen(model, images()), expected)
        inspection = inspect_model(model, images())
        assert inspection.layouts[0].queries == (4, 4, prefix)
    table = inspection.table()
    assert (table.measure == "pos_embed_similarity").any() == (name not in ("BEiT", "DINOv3"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_sam_of_transformers(attention: str) -> None:
    transformers = pytest.importorskip("transformers", reason=f"transformers {OPTIONAL}")
    options = {**SMALL, "mlp_dim": 48, "output_channels": 16, "window_size": 3, "global_attn_indexes": [1]}
    torch.manual_seed(0)
    config = transformers.SamVisionConfig(**options)
    model = disturbed(transformers.SamVisionModel._from_config(config, attn_implementation=attention))
    expected: list[Tensor] = []
    reference = disturbed(transformers.SamVisionModel._from_config(config, attn_implementation="eager"))
    reference.load_state_dict(model.state_dict())
    for layer in reference.vision_encoder.layers:
        layer.attn.register_forward_hook(lambda layer, inputs, output: expected.append(output[1]))
    with torch.no_grad():
        reference(images())
    by_window = expected[0].unflatten(0, (3, 4, 2))  # of 2 heads; windows but the first hold padding
    same_maps(seen(model, images()), [by_window[:, 0], expected[1]])
    inspection = inspect_model(model, images())
    assert [layout.queries.size for layout in inspection.layouts] == [(3, 3), (4, 4)]
    assert [layout.patch for layout in inspection.layouts] == [(8, 8), (8, 8)]
    assert inspection.similarity is not None
    assert inspection.similarity[0].size == (4, 4)


def test_a_model_whose_tokens_are_not_known_is_refused_by_name() -> None:
    transformers = pytest.importorskip("transformers", reason=f"transformers {OPTIONAL}")
    with pytest.raises(
        ValueError, match=r"ViTMAEModel \(vit_mae\) is of a model type whose tokens are not known"
    ):
        find_attention(transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL)))


@pytest.mark.parametrize("kind", ["own", "timm"])
def test_open_clip(kind: str) -> None:
    open_clip = pytest.importorskip("open_clip", reason=f"open_clip {OPTIONAL}")
    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    vision: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    torch.manual_seed(0)
    expected: list[Tensor] = []
    if kind == "own":
        model = disturbed(open_clip.CLIP(16, vision, text))
        plain = copy.deepcopy(model)
        for block in plain.visual.transformer.resblocks:
            block.attn.register_forward_pre_hook(
                lambda layer, inputs, options: expected.append(
                    layer.forward(
                        *inputs, **{**options, "need_weights": True, "average_attn_weights": False}
                    )[1]
                ),
                with_kwargs=True,
            )
        with torch.no_grad():
            plain.visual(images())
        same_maps(seen(model, images()), expected)
    else:
        named = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
        model = disturbed(open_clip.CustomTextCLIP(16, named, text))
        found = seen(model, images(2, 160, 160))
        assert [path.split(".")[:2] for path in found] == [["visual", "trunk"]] * 6
        plain = copy.deepcopy(model.visual)
        for block in plain.trunk.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_pre_hook(lambda module, inputs: expected.append(inputs[0]))
        with torch.no_grad():
            plain(images(2, 160, 160))
        same_maps(found, expected)
    for seen_model in (model, model.visual):
        pictures = images() if kind == "own" else images(3, 160, 160)
        inspection = inspect_model(seen_model, pictures)
        assert inspection.layouts[0].queries.prefix == 1
        assert (inspection.table().measure == "pos_embed_similarity").any()


FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {  # of timm, beside those of test_watch
    "LeViT": ("levit_128s", {}, 224),
    "CaiT": ("cait_xxs24_224", {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 4}, 64),
    "EfficientFormer": ("efficientformer_l1", {}, 224),
    "differential": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "attn_layer": "diff"}, 64),
    **{
        name: TIMM[name]
        for name in ("MViTv2", "GCViT", "DaViT", "EfficientFormerV2", "VOLO", "PVTv2", "CrossViT")
    },
}


def softmaxes(model: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
    """By layer, what the attention modules compute as softmax themselves when fused attention is off."""
    found: dict[str, list[Tensor]] = {}
    inside: list[str] = []
    plain = torch.Tensor.softmax

    def recorded(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = plain(tensor, *args, **kwargs)
        if inside:
            found.setdefault(inside[-1], []).append(output.clone())
        return output

    for layer in find_attention(model).layers:
        for module in layer.module.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        layer.module.register_forward_pre_hook(lambda module, inputs, path=layer.path: inside.append(path))
        layer.module.register_forward_hook(lambda module, inputs, output: inside.clear())
    torch.Tensor.softmax = recorded  # type: ignore[method-assign, assignment]
    try:
        with torch.no_grad():
            model(pictures)
    finally:
        torch.Tensor.softmax = plain  # type: ignore[method-assign]
    return {path: torch.cat(maps, 1) for path, maps in found.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_softmaxes_of_timm(name: str) -> None:
    """Each layer's maps, attention fused where the model does so, against the softmax of the module itself."""
    kind, options, size = FAMILIES[name]
    torch.manual_seed(0)
    model = disturbed(timm.create_model(kind, **options), 0.05)
    found, truth = seen(model, images(2, size, size)), softmaxes(model, images(2, size, size))
    assert found
    for path, maps in found.items():
        expected = truth[path]
        if name == "differential":  # both maps of a head are interleaved there, one after the other here
            expected = torch.cat([expected[:, ::2], expected[:, 1::2]], 1)
        assert expected.std() > 1e-4
        torch.testing.assert_close(maps, expected.view(maps.shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [1, 2])
def test_models_and_stages_may_have_a_number_of_heads(depth: int) -> None:
    """As the models of DINOv2's repository have: they count as no layer."""
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", **size, depth=depth)
    expected = inspect_attention(model, images())
    for module in (model, model.blocks)[:depth]:
        module.num_heads = 2
    pd.testing.assert_frame_equal(inspect_attention(model, images()), expected)


def test_grids_of_each_stage_and_of_pooled_layers() -> None:
    model = timm.create_model("levit_128s").eval()
    inspection = inspect_model(model, images(2, 224, 224))
    sizes = [(layout.queries.size, layout.keys.size) for layout in inspection.layouts]
    assert sizes[0] == ((14, 14), (14, 14))
    assert ((7, 7), (14, 14)) in sizes
    assert sizes[-1] == ((4, 4), (4, 4))
    table = inspection.table()
    pooled = [number for number, (queries, keys) in enumerate(sizes) if queries != keys]
    associations = table[table.measure == "association"]
    assert set(associations[associations.value.isna()].layer) == set(pooled)
    assert table[table.measure == "distance"].value.notna().all()


def test_windows_are_measured_within_themselves() -> None:
    """Swin: the windows of an image against its maps computed layer by layer, and pixels by stage."""
    torch.manual_seed(0)
    options = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    model = disturbed(timm.create_model("swin_tiny_patch4_window7_224", **options), 0.05)
    found, expected = seen(model, images(2, 64, 64)), []
    for layer in find_attention(model).layers:
        layer.module.fused_attn = False
        layer.module.attn_drop.register_forward_pre_hook(lambda module, inputs: expected.append(inputs[0]))
    with torch.no_grad():
        model(images(2, 64, 64))
    same_maps(found, expected)
    inspection = inspect_model(model, images(2, 64, 64))
    assert [layout.queries.size for layout in inspection.layouts] == [(4, 4)] * 4
    assert [layout.patch[0] for layout in inspection.layouts] == [4, 4, 8, 8]
    maps = expected[0].double().view(2, 16, 2, 16, 16)
    entropy = torch.special.entr(maps).sum(-1).mean((0, 1, 3))
    table = inspection.table()
    chosen = table[(table.layer == 0) & (table.measure == "entropy")]
    assert chosen.value.tolist() == pytest.approx(entropy.tolist(), abs=1e-5)


def test_the_average_of_windows_is_over_windows_and_images() -> None:
    """Positionality against its definition with the maps of 16 images, the noise taken from their spread."""
    torch.manual_seed(0)
    options = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}
    model = disturbed(timm.create_model("swin_tiny_patch4_window7_224", **options), 0.05)
    pixels, expected = torch.randn(16, 3, 64, 64), []
    for layer in find_attention(model).layers:
        layer.module.fused_attn = False
        layer.module.attn_drop.register_forward_pre_hook(lambda module, inputs: expected.append(inputs[0]))
    with torch.no_grad():
        model(pixels)
    inspection = inspect_model(model, pixels, batch_size=16)
    n, table = len(pixels), inspection.table()
    for layer, found in enumerate(expected[-4:]):
        maps = found.double().unflatten(0, (n, -1))  # (n, windows, h, Q, K)
        assert inspection.maps(layer) == pytest.approx(maps.mean((0, 1)).numpy(), abs=1e-6)
        centred = maps - 1 / maps.shape[-1]
        of_image = centred.mean(1).flatten(2)  # (n, h, entries)
        noise = (of_image - of_image.mean(0)).square().sum((0, 2)) / (n - 1) / n
        explained = of_image.mean(0).square().sum(-1) - noise
        share = explained / centred.square().sum((-1, -2)).mean((0, 1))
        value = table[(table.layer == layer) & (table.measure == "positionality")].value
        assert value.tolist() == pytest.approx(share.tolist(), abs=0.01)


def test_windows_that_are_not_square() -> None:
    options = {"img_size": (64, 256), "embed_dim": 24, "num_heads": (1,) * 4, "depths": (1,) * 4}
    model = timm.create_model("swinv2_tiny_window8_256", **options)
    inspection = inspect_model(model, images(2, 64, 256))
    assert [layout.queries.size for layout in inspection.layouts] == [(8, 8), (8, 8), (4, 8), (2, 8)]
    assert [layout.patch for layout in inspection.layouts] == [(4, 4), (8, 8), (16, 16), (32, 32)]


def test_windows_with_padding_are_left_out() -> None:
    """SAM at 112 x 80 pixels: of 7 x 5 patches in windows of 3 x 3, padded to 9 x 6, the first 2 x 1 windows."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"depth": 1, "embed_dim": 24, "num_heads": 2, "window_size": 3}
    model = disturbed(
        timm.create_model("samvit_base_patch16", **options, img_size=(112, 80), global_attn_indexes=())
    )
    found: list[Tensor] = []
    attention = model.blocks[0].attn
    attention.fused_attn = False
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model.forward_features(images(4, 112, 80))
    hook.remove()
    maps = found[0].double().view(4, 3, 2, 2, 9, 9)  # (n, down, across, h, Q, K)
    whole = maps[:, :2, 0]
    table = inspect_attention(model, images(4, 112, 80), batch_size=3)
    entropy = torch.special.entr(whole).sum(-1).mean((1, 3))
    shown = table[table.measure == "entropy"]
    assert shown.value.tolist() == pytest.approx(entropy.mean(0).tolist(), rel=1e-5)
    assert shown.stderr.tolist() == pytest.approx((entropy.std(0) / 2).tolist(), rel=1e-4)
    padded = torch.special.entr(maps).sum(-1).mean((0, 1, 2, 4))
    assert (padded - entropy.mean(0)).abs().max() > 0.01
    average = inspect_model(model, images(4, 112, 80)).maps(0)
    torch.testing.assert_close(torch.from_numpy(average).double(), whole.mean((0, 1)), atol=1e-6, rtol=0)


def test_a_layer_whose_windows_all_hold_padding_is_refused() -> None:
    options: dict[str, Any] = {"embed_dim": 24, "num_heads": 2, "window_size": 14, "img_size": 160}
    for depth, of_all in ((1, ()), (2, (1,))):
        model = timm.create_model("samvit_base_patch16", depth=depth, global_attn_indexes=of_all, **options)
        words = "all of its windows of 14x14 hold padding around the 10x10 patches"
        if depth == 1:
            with pytest.raises(TypeError, match=words):
                inspect_attention(model, images(2, 160, 160))
        else:
            assert words in inspect_attention(model, images(2, 160, 160)).attrs["unobserved"]["blocks.0.attn"]


def test_folded_heads_and_windows_of_timms_sam() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "window_size": 2, "img_size": 64}
    model = disturbed(timm.create_model("samvit_base_patch16", **options, global_attn_indexes=(1,)), 0.1)
    found, expected = seen(model, images(2, 64, 64)), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda module, inputs: expected.append(inputs[0]))
    with torch.no_grad():
        model.forward_features(images(2, 64, 64))
    assert [maps.shape for maps in found.values()] == [(8, 3, 4, 4), (2, 3, 16, 16)]
    same_maps(found, expected)

"""Models of transformers and torchvision: converted, frozen, recovered, saved and loaded as timm's are."""

import copy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torchvision
import transformers
from small_vits import TRANSFORMERS_SIZE
from torch import nn

import posattn
from posattn.vision.convert.adapters.attention import OfTorchvision, OfTransformers
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.maps import KINDS, map_statistics, replace_heads, to_positional
from posattn.vision.convert.quality import outputs
from posattn.vision.convert.recovery import Normalise, recover
from posattn.vision.convert.refit import refit
from posattn.vision.convert.reruns import outputs_of_choices, subject_of
from posattn.vision.convert.saving import heads_kept
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.inspection import inspect_attention
from posattn.vision.inspect.watch import watch_attention
from posattn.vision.models.freeze import freeze_attention

TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], int]] = {  # model, config, options, prefix
    "vit": ("ViTModel", "ViTConfig", {}, 1),
    "vit without biases": ("ViTModel", "ViTConfig", {"qkv_bias": False}, 1),
    "vit classifier": ("ViTForImageClassification", "ViTConfig", {"num_labels": 5}, 1),
    "deit": ("DeiTModel", "DeiTConfig", {}, 2),
    "vit-msn": ("ViTMSNModel", "ViTMSNConfig", {}, 1),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 2}, 1),
    "dinov2 classifier": ("Dinov2ForImageClassification", "Dinov2Config", {"num_labels": 5}, 1),
    "registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"num_register_tokens": 3, "use_swiglu_ffn": True},
        4,
    ),
}
MODELS = [*TRANSFORMERS, "torchvision"]
CHOICES = {
    "some": {0: {0: "table", 2: "convolution"}, 1: {1: "relative"}},
    "all": {0: dict.fromkeys(range(3), "table"), 1: {0: "convolution", 1: "table", 2: "relative"}},
}


def make(name: str) -> nn.Module:
    """A model whose attention is far from uniform."""
    torch.manual_seed(0)
    if name == "torchvision":
        model: nn.Module = torchvision.models.VisionTransformer(16, 4, 2, 3, 24, 32, num_classes=5)
    else:
        kind, config, options, _ = TRANSFORMERS[name]
        model = getattr(transformers, kind)(getattr(transformers, config)(**{**TRANSFORMERS_SIZE, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def images(batch: int = 3, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def run(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model itself gives."""
    with torch.no_grad():
        found = model(x)
    if isinstance(found, torch.Tensor):
        return found
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@pytest.mark.parametrize("name", MODELS)
def test_tokens_features_and_logits(name: str) -> None:
    vit, model = adapter_of(make(name)), make(name)
    with torch.no_grad():
        found = vit.forward(images())
    prefix = 1 if name == "torchvision" else TRANSFORMERS[name][3]
    assert vit.grid() == (4, 4, prefix)
    assert (vit.image_size, vit.patch_size, vit.channels) == ((16, 16), (4, 4), 3)
    assert found.tokens.shape == (3, prefix + 16, 24)
    torch.testing.assert_close(found.features, found.tokens[:, 0])
    expected = found.logits if found.logits is not None else found.tokens
    assert torch.equal(run(model, images()), expected)
    assert (found.logits is not None) == (name == "torchvision" or "classifier" in name)


@pytest.mark.parametrize("name", MODELS)
def test_one_image_converted_as_tables_is_as_before(name: str) -> None:
    """Prefix tokens keep rows and columns of their own."""
    vit = make(name)
    model = to_positional(vit, images(1), heads={0: [1], 1: [0, 1, 2]})
    torch.testing.assert_close(run(model, images(1)), run(vit, images(1)), atol=1e-5, rtol=1e-5)
    assert (run(model, images(1, seed=2)) - run(vit, images(1, seed=2))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vit classifier", "registers", "torchvision"])
def test_exact_where_attention_is_constant(name: str, kind: str) -> None:
    vit = make(name)
    with torch.no_grad():
        for number in (0, 1):
            attn = adapter_of(vit).attention(number)
            queries = [attn.in_proj_weight[:24], attn.in_proj_bias[:24]] if name == "torchvision" else [
                attn.q_proj.weight, attn.q_proj.bias
            ]  # fmt: skip
            for part in queries:
                part.zero_()
    model = to_positional(vit, images(), kind=kind)
    torch.testing.assert_close(
        run(model, images(4, seed=3)), run(vit, images(4, seed=3)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", MODELS)
def test_saved_loaded_and_frozen(name: str, choice: str, tmp_path: Path) -> None:
    vit = make(name)
    model = to_positional(vit, images(), heads=CHOICES[choice], window=3)
    expected = run(model, images())
    torch.testing.assert_close(run(freeze_attention(model), images()), expected, atol=1e-5, rtol=1e-5)
    posattn.save(model, tmp_path / "own")
    loaded = posattn.load(tmp_path / "own")
    assert torch.equal(run(loaded, images()), expected)
    assert type(loaded) is type(vit)
    assert not loaded.training
    assert heads_kept(loaded) == heads_kept(model) == CHOICES[choice]
    posattn.save(loaded, tmp_path / "again")
    assert torch.equal(run(posattn.load(tmp_path / "again"), images()), expected)
    if name != "torchvision":
        config = transformers.AutoConfig.from_pretrained(tmp_path / "own")
        assert type(config) is type(vit.config)
        assert config.hidden_size == 24
        assert not hasattr(vit.config, "posattn")  # the original is left alone


@pytest.mark.parametrize("name", ["vit", "registers", "torchvision"])
def test_q_and_k_are_gone_and_content_stays(name: str) -> None:
    vit = make(name)
    model = to_positional(vit, images(), heads=CHOICES["some"])
    wrapper = adapter_of(model).attention(0)
    assert isinstance(wrapper, OfTorchvision if name == "torchvision" else OfTransformers)
    assert wrapper.layer.content.qk.weight.shape == (2 * 8, 24)  # of one head of three
    before = sum(p.numel() for p in vit.parameters())
    whole = to_positional(vit, images())
    assert sum(p.numel() for p in whole.parameters()) == before - 2 * 2 * (24 * 24 + 24)


@pytest.mark.parametrize("name", ["vit classifier", "dinov2", "torchvision"])
def test_maps_by_offset_serve_other_image_sizes(name: str, tmp_path: Path) -> None:
    vit = make(name)
    kinds = {0: {0: "relative", 1: "convolution"}, 1: {2: "relative"}}
    model = to_positional(vit, images(), heads=kinds, window=3)
    posattn.save(model, tmp_path / "small")
    large = posattn.load(tmp_path / "small", img_size=24)
    assert adapter_of(large).attention(1).layer.attention_maps().shape[-1] == 6 * 6 + 1
    if name == "dinov2":  # which resamples its embedding by itself, otherwise than timm
        whole = copy.deepcopy(vit)
        adapter_of(whole).set_size((24, 24))
        close = (run(whole, images(size=24)) - run(vit, images(size=24))).norm() / run(
            vit, images(size=24)
        ).norm()
        assert close < 0.1
    posattn.save(large, tmp_path / "large")
    again = posattn.load(tmp_path / "large")
    assert torch.equal(run(again, images(size=24)), run(large, images(size=24)))
    tables = to_positional(vit, images(), blocks=[0])
    posattn.save(tables, tmp_path / "tables")
    with pytest.raises(ValueError, match=r"tables are for a grid of \(4, 4\), got img_size=24"):
        posattn.load(tmp_path / "tables", img_size=24)
    with pytest.raises(ValueError, match="patch height must divide image height"):
        posattn.load(tmp_path / "small", img_size=18)
    with pytest.raises(TypeError, match="drop_path_rate"):
        posattn.load(tmp_path / "small", drop_path_rate=0.1)


@pytest.mark.parametrize("name", ["vit classifier", "registers", "torchvision"])
def test_reruns_agree_with_models_that_are_converted_whole(name: str) -> None:
    vit = make(name)
    averages = {n: one.mean for n, one in map_statistics(vit, images(5), range(2)).items()}
    choices: list[dict] = [{}, {0: {1: "table"}}, {1: {0: "convolution", 1: "relative"}}, CHOICES["all"]]
    found = outputs_of_choices(subject_of(vit, averages, 3), choices, [images(4), images(3, seed=4)])
    for choice, one in zip(choices, found, strict=True):
        model = replace_heads(vit, averages, choice, window=3).eval()
        with torch.no_grad():
            expected = outputs(model, torch.cat([images(4), images(3, seed=4)]))
        torch.testing.assert_close(one.features, expected.features, atol=1e-5, rtol=1e-4)
        assert (one.logits is None) == (expected.logits is None)


@pytest.mark.parametrize("name", ["registers", "torchvision"])
def test_recovered(name: str) -> None:
    vit = make(name)
    model = to_positional(vit, images(), heads=CHOICES["some"], window=3)
    pictures = torch.randint(
        0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    config = RecoveryConfig(steps=30, batch_size=8, lr=1e-3, maps_lr=1e-2, padding=0, flip=False)
    losses = [
        record.loss for record in recover(model, vit, pictures, Normalise((0.5,) * 3, (0.5,) * 3), config)
    ]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", ["vit classifier", "registers", "torchvision"])
def test_refitted(name: str) -> None:
    vit = make(name)
    model = to_positional(vit, images(20), heads=CHOICES["all"], window=3)

    def distance() -> float:
        with torch.no_grad():
            found, target = (adapter_of(m).forward(images(10, seed=5)).tokens for m in (model, vit))
        return (found - target).square().mean().item()

    before = distance()
    refit(model, vit, list(images(40).split(20)))
    assert distance() < 0.9 * before


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["vit classifier", "registers", "torchvision"])
def test_converted_heads_are_inspected_under_their_numbers(name: str, choice: str) -> None:
    model, kinds = to_positional(make(name), images(), heads=CHOICES[choice], window=3), CHOICES[choice]
    table = inspect_attention(model, images(5))
    for number, of_block in kinds.items():
        rows = table[(table.layer == number) & (table.measure == "positionality")]
        constant = {head for head, value in zip(rows["head"], rows.value, strict=True) if value > 1 - 1e-6}
        assert constant == set(of_block)
    maps = seen_maps(model, images(5))
    for number, of_block in kinds.items():
        layer = adapter_of(model).attention(number).layer
        known = layer.attention_maps()
        order = list(layer.order)[: len(of_block)] if hasattr(layer, "order") else sorted(of_block)
        torch.testing.assert_close(maps[number][:, order], known.expand(5, -1, -1, -1))


def test_tables_seen_by_an_inspection_are_the_average_maps() -> None:
    vit = make("torchvision")
    means = {n: one.mean for n, one in map_statistics(vit, images(), range(2)).items()}
    maps = seen_maps(to_positional(vit, images(), heads={0: [2, 0], 1: [1]}), images(5, seed=6))
    torch.testing.assert_close(maps[0][:, [0, 2]], means[0][[0, 2]].expand(5, -1, -1, -1))
    torch.testing.assert_close(maps[1][:, 1], means[1][1].expand(5, -1, -1))


def seen_maps(model: nn.Module, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """The (n, h, N, N) maps of each layer that an inspection finds."""
    found = {}
    layers = {n: layer.module for n, layer in enumerate(find_attention(model).layers)}
    watch_attention(
        model, x, layers, lambda n, maps, batch: found.update({n: maps.expand(len(x), -1, -1, -1)})
    )
    return found


def test_compiled() -> None:
    model = freeze_attention(to_positional(make("torchvision"), images(), heads=CHOICES["some"], window=3))
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(run(compiled, images()), run(model, images()))


def test_exported() -> None:
    model = freeze_attention(to_positional(make("registers"), images(), heads=CHOICES["some"], window=3))
    expected = run(model, images())
    exported = torch.export.export(model, (images(),)).module()
    torch.testing.assert_close(run(exported, images()), expected)


@pytest.mark.parametrize("name", ["vit classifier", "registers"])
@pytest.mark.filterwarnings("ignore")
def test_onnx_agrees(name: str, tmp_path: Path) -> None:
    vit = make(name)
    model = freeze_attention(to_positional(vit, images(), heads=CHOICES["some"], window=3))
    torch.onnx.export(model, (images(),), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = images(seed=7)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), run(model, x), atol=1e-4, rtol=1e-4)
    assert (torch.from_numpy(found) - run(vit, x)).abs().max() > 1e-3


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

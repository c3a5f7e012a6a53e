"""Models of transformers and torchvision: converted, frozen, recovered, saved and loaded as timm's are."""

import copy
from pathlib import Path

import onnxruntime
import pytest
import torch
import transformers
from library_vits import MODELS, TRANSFORMERS, images, make, run
from small_vits import TRANSFORMERS_SIZE
from torch import nn

import posattn
from posattn.vision.convert.adapters.attention import OfTorchvision, OfTransformers
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.averages import map_statistics
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.heads import KINDS
from posattn.vision.convert.maps import replace_heads, to_positional
from posattn.vision.convert.quality import outputs
from posattn.vision.convert.recovery import Normalise, recover
from posattn.vision.convert.refit import refit
from posattn.vision.convert.reruns import outputs_of_choices, subject_of
from posattn.vision.convert.saving import heads_kept
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.inspection import inspect_attention
from posattn.vision.inspect.watch import watch_attention
from posattn.vision.models.freeze import freeze_attention

CHOICES = {
    "some": {0: {0: "table", 2: "convolution"}, 1: {1: "relative"}},
    "all": {0: dict.fromkeys(range(3), "table"), 1: {0: "convolution", 1: "table", 2: "relative"}},
}


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


def test_a_model_of_images_that_are_not_square_says_why_its_size_is_fixed() -> None:
    model = transformers.ViTModel(transformers.ViTConfig(**{**TRANSFORMERS_SIZE, "image_size": (16, 8)}))
    with pytest.raises(ValueError, match=r"fixed image size, \(16, 8\), as it is not square; got \(16, 16\)"):
        adapter_of(model).set_size((16, 16))


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


def test_a_backbone_is_converted_and_not_compared() -> None:
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=4
    )
    model = transformers.Dinov2Backbone(config).eval()
    pixels = torch.randn(2, 3, 16, 16)
    assert to_positional(model, pixels)(pixels).feature_maps[0].isfinite().all()
    with pytest.raises(TypeError, match="Dinov2Backbone gives no last tokens"):
        outputs(model, pixels)

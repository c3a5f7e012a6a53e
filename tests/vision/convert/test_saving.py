"""Converted models that are saved, built again by timm, and exported."""

import json
import re
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from torch import nn

import posattn
from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.saving import heads_kept
from posattn.vision.models.freeze import freeze_attention

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
MODELS = {
    "vit": ("vit_small_patch14_reg4_dinov2", SMALL),
    "no head, no class token": ("vit_base_patch16_siglip_224", {**SMALL, "num_classes": 0, "in_chans": 1}),
    "eva": ("vit_small_patch16_dinov3", {**SMALL, "dynamic_img_size": False}),
    "beit": ("beit_base_patch16_224", SMALL),
    "relative": ("vit_relpos_small_patch16_224", SMALL),
    "hybrid": ("vit_posattn_hybrid_tiny_patch4_32", {**SMALL, "class_token": True, "scores": "relative"}),
}
HEADS = {
    "every kind": {1: {0: "table", 1: "convolution", 2: "relative"}},
    "some": {1: {2: "convolution"}},
    "tables": {1: {0: "table", 1: "table", 2: "table"}},
}


def make(name: str = "vit") -> nn.Module:
    torch.manual_seed(0)
    architecture, options = MODELS[name]
    model = timm.create_model(architecture, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def images(model: nn.Module, batch: int = 3, size: int = 16) -> torch.Tensor:
    channels = model.patch_embed.proj.in_channels
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name: str, heads: str, tmp_path: Path) -> None:
    vit = make(name)
    model = to_positional(vit, images(vit), heads=HEADS[heads], window=3)
    posattn.save(model, tmp_path / "own")
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    with torch.no_grad():
        expected = model(images(vit))
        for folder in ("own", "timm"):
            for loaded in (
                posattn.load(tmp_path / folder),
                timm.create_model(f"local-dir:{tmp_path / folder}", pretrained=True).eval(),
            ):
                assert torch.equal(loaded(images(vit)), expected)
                assert heads_kept(loaded) == HEADS[heads]
                assert not loaded.training
        posattn.save(posattn.load(tmp_path / "own"), tmp_path / "again")
        assert torch.equal(posattn.load(tmp_path / "again")(images(vit)), expected)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert config["architecture"] == "converted_vit"
    assert config["model_args"]["base"] == MODELS[name][0]
    assert config["model_args"]["converted"]["heads"]["1"] == {str(k): v for k, v in HEADS[heads][1].items()}


def test_a_full_disk_is_named_and_leaves_the_weights_that_were_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # which Windows lacks
    vit, other = make(), make()
    before, after = (to_positional(one, images(one), heads=HEADS["tables"]) for one in (vit, other))
    with torch.no_grad():
        after.norm.weight += 1
    posattn.save(before, tmp_path / "kept")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f"{tmp_path / 'kept' / 'model.safetensors'}")):
            posattn.save(after, tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["config.json", "model.safetensors"]
    with torch.no_grad():
        assert torch.equal(posattn.load(tmp_path / "kept")(images(vit)), before(images(vit)))


@pytest.mark.parametrize("name", ["vit", "eva", "hybrid"])
def test_types_are_kept(name: str, tmp_path: Path) -> None:
    """Half precision, and a classifier that is not; unless another type is asked for."""
    vit = make(name).bfloat16()
    model = to_positional(vit, images(vit), heads=HEADS["every kind"], window=3)
    posattn.save(model, tmp_path / "half")
    x = images(vit).bfloat16()
    for loaded in (
        posattn.load(tmp_path / "half"),
        timm.create_model(f"local-dir:{tmp_path / 'half'}", pretrained=True).eval(),
    ):
        assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
        assert torch.equal(loaded(x), model(x))
    assert posattn.load(tmp_path / "half", dtype=torch.float32)(images(vit)).dtype == torch.float32
    model.head.float()
    posattn.save(model, tmp_path / "mixed")
    mixed = posattn.load(tmp_path / "mixed")
    assert (mixed.head.weight.dtype, mixed.blocks[0].mlp.fc1.weight.dtype) == (torch.float32, torch.bfloat16)


def test_without_pretrained_it_is_random(tmp_path: Path) -> None:
    model = to_positional(make(), images(make()), heads=HEADS["some"])
    posattn.save(model, tmp_path)
    blank = timm.create_model(f"local-dir:{tmp_path}")
    assert blank.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(blank.patch_embed.proj.weight, model.patch_embed.proj.weight)


def test_trained_maps_are_saved_frozen(tmp_path: Path) -> None:
    model = to_positional(make(), images(make()), heads={0: {0: "table"}, **HEADS["every kind"]})
    with torch.no_grad():
        for block in model.blocks:
            block.attn.thaw()
            for parameter in block.attn.groups.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        expected = model(images(model))
        posattn.save(model, tmp_path / "own")
        timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
        for folder in ("own", "timm"):
            loaded = posattn.load(tmp_path / folder)
            torch.testing.assert_close(loaded(images(model)), expected)
            assert not any("table" in name for name, p in loaded.named_parameters() if "maps" in name)


def test_blocks_converted_one_after_the_other(tmp_path: Path) -> None:
    """Blocks that are all tables may be converted in turn; what is saved names both."""
    vit = make()
    model = to_positional(to_positional(vit, images(vit), blocks=[0]), images(vit), blocks=[1])
    posattn.save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(posattn.load(tmp_path)(images(vit)), model(images(vit)))
    assert set(heads_kept(model)) == {0, 1}


def test_loaded_at_another_image_size(tmp_path: Path) -> None:
    vit = make()
    model = to_positional(vit, images(vit), heads={0: {1: "relative"}, 1: {0: "convolution"}})
    posattn.save(model, tmp_path / "small")
    large = posattn.load(tmp_path / "small", img_size=24)
    model.set_input_size(img_size=24)
    with torch.no_grad():
        torch.testing.assert_close(large(images(vit, size=24)), model(images(vit, size=24)))
    posattn.save(large, tmp_path / "large")
    with torch.no_grad():
        again = posattn.load(tmp_path / "large")
        torch.testing.assert_close(again(images(vit, size=24)), large(images(vit, size=24)))
        small = posattn.load(tmp_path / "large", img_size=16)
        assert small(images(vit)).shape == (3, 5)


def test_other_classes(tmp_path: Path) -> None:
    vit = make()
    posattn.save(to_positional(vit, images(vit), blocks=[0]), tmp_path)
    model = posattn.load(tmp_path, num_classes=7, drop_path_rate=0.1)
    assert model(images(vit)).shape == (3, 7)
    with pytest.raises(ValueError, match="in_chans was 3 when the model was saved, got 1"):
        posattn.load(tmp_path, in_chans=1)


def test_tables_refuse_another_size(tmp_path: Path) -> None:
    vit = make()
    posattn.save(to_positional(vit, images(vit), blocks=[0]), tmp_path)
    with pytest.raises(
        ValueError, match=r"tables are for a grid of \(4, 4\), got img_size=24: convert at that size"
    ):
        posattn.load(tmp_path, img_size=24)


def test_what_cannot_be_saved_or_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="VisionTransformer has no converted heads; see to_positional"):
        posattn.save(make(), tmp_path)
    bare = timm.models.VisionTransformer(**SMALL)
    with pytest.raises(ValueError, match=r"VisionTransformer was not made by timm.create_model"):
        posattn.save(to_positional(bare, images(bare)), tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="holds no model"):
        posattn.load(tmp_path)
    with pytest.raises(ValueError, match="converted_vit is built from a saved folder"):
        timm.create_model("converted_vit")


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.filterwarnings("ignore")
def test_onnx_agrees(heads: str, tmp_path: Path) -> None:
    vit = make()
    model = freeze_attention(to_positional(vit, images(vit), heads=HEADS[heads], window=3))
    torch.onnx.export(model, (images(vit),), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images(vit).numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(images(vit)), atol=1e-4, rtol=1e-4)


def test_a_layer_says_which_heads_are_which() -> None:
    vit = make()
    model = to_positional(vit, images(vit), heads={1: {2: "table", 0: "convolution"}})
    layer = model.blocks[1].attn
    assert isinstance(layer, ConvertedAttention)
    assert layer.kinds == {0: "convolution", 2: "table"}
    assert layer.order == [2, 0, 1]  # tables, convolutions, content


def test_the_examples_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs" / "convert.md"
    conversion, refit = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(conversion, "convert.md", "exec"), names)
    with torch.no_grad():
        assert torch.equal(names["again"](names["pictures"]), names["model"].eval()(names["pictures"]))
    exec(compile(refit, "convert.md", "exec"), names)
    assert names["changed"].blocks[0].attn.kinds == {0: "table", 1: "table"}


def test_a_compiled_model_is_saved_as_it_is(tmp_path: Path) -> None:
    vit = make()
    model = to_positional(vit, images(vit))
    posattn.save(torch.compile(model, backend="eager"), tmp_path)
    with torch.no_grad():
        assert torch.equal(posattn.load(tmp_path)(images(vit)), model(images(vit)))


def test_options_that_no_file_holds_are_named(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL, act_layer=nn.ReLU)
    model = to_positional(vit, images(vit))
    with pytest.raises(
        ValueError, match="a class or a function, which no file can hold: create it with names"
    ):
        posattn.save(model, tmp_path)

"""Which models `posattn convert` takes, and what it says of the others."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
import transformers
from layouts import encoded, noise, write_folder
from PIL import Image
from rich.progress import Progress

import posattn
from posattn.recipes.convert.models import load_model
from posattn.recipes.convert.run import run
from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import load_material, normalise_of
from posattn.recipes.images.settings import images as images_recipe
from posattn.recipes.kit.classifiers import build, weights_name
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL, ModelSize
from posattn.recipes.kit.sources import torchvision_vit
from posattn.runs.folder import RunFolder, open_run
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.maps import to_positional
from posattn.vision.data.config import DataConfig, MemoryDataConfig
from posattn.vision.data.images import load_images, to_float

Configure = Callable[..., ConvertConfig]
SIZE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with two classes and its image processor."""
    folder = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZE, num_labels=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(
        json.dumps(processor | {"size": {"height": 32, "width": 32}})
    )
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `posattn run images` on digits, with the weights of three models."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with open_run(folder, "images", images_recipe(smoke=True)) as made:
        size, digits = ModelSize(**made.config["config"]["size"]), load_images("digits", "test")
        for name, seed in ((ORIGINAL, 0), (ORIGINAL, 1), (POSITIONAL, 0)):
            made.save_tensors(weights_name(name, seed), build(size, name, seed, digits).state_dict())
        made.finish({})
    return folder


def test_transformers(config_of: Configure, transformers_folder: Path, place: Path, tmp_path: Path) -> None:
    """From a folder to a folder that loads again, with the accuracy of its own classifier."""
    config = config_of(
        model=str(transformers_folder),
        images=str(place / "labelled"),
        labels=True,
        heads="50%",
        by="head",
        recover=2,
    )
    with open_run(tmp_path / "run", "convert", config) as folder, Progress(disable=True) as progress:
        folder.finish(run(config, folder, progress))
    found = folder.result["convert"]
    assert found["original"]["classifier"]
    assert found["chosen"]["heads"] == 3
    model = posattn.load(tmp_path / "run")
    assert type(model).__name__ == "ViTForImageClassification"
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 2)
    with pytest.raises(ValueError, match="run has converted heads already: convert the original model"):
        load_model(config_of(model=str(tmp_path / "run")))
    with pytest.raises(ValueError, match="model has converted heads already"):
        load_model(config_of(model=str(tmp_path / "run" / "model")))
    vit = load_model(config)
    assert normalise_of(vit.model) == (pytest.approx((0.4,) * 3), pytest.approx((0.2,) * 3))


def test_a_folder_of_half_precision_is_timed_as_that(
    config_of: Configure, transformers_folder: Path, place: Path, tmp_path: Path
) -> None:
    """transformers loads a model in the type that it was saved in."""
    shutil.copytree(transformers_folder, half := tmp_path / "half")
    transformers.ViTForImageClassification.from_pretrained(half).bfloat16().save_pretrained(half)
    config = config_of(model=str(half), images=str(place / "labelled"), labels=True, heads="50%")
    with open_run(tmp_path / "run", "convert", config) as folder, Progress(disable=True) as progress:
        folder.finish(run(config, folder, progress))
    assert folder.result["convert"]["speed"]["dtype"] == "bfloat16"
    assert "bfloat16, eager" in str(folder.result["page"])
    assert next(posattn.load(tmp_path / "run").parameters()).dtype == torch.bfloat16


def test_folders_of_timm(config_of: Configure, place: Path) -> None:
    """With and without local-dir: the same model."""
    named, bare = (
        load_model(config_of(model=f"{prefix}{place / 'vit'}")).model for prefix in ("local-dir:", "")
    )
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(named(x), bare(x))


def test_a_wrapped_checkpoint(config_of: Configure, place: Path, tmp_path: Path) -> None:
    """As training scripts save it, with the prefix of DistributedDataParallel."""
    original = load_model(config_of(model=str(place / "vit"))).model.state_dict()
    halved = {name: value / 2 for name, value in original.items()}
    wrapped = {f"module.{name}": value for name, value in halved.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "wrapped.pt")
    config = config_of(model=str(place / "vit"), checkpoint=tmp_path / "wrapped.pt")
    found = load_model(config).model.state_dict()
    assert found.keys() == halved.keys()
    assert all(torch.equal(found[name], value) for name, value in halved.items())


def test_a_checkpoint_of_another_size_is_told(config_of: Configure, place: Path, tmp_path: Path) -> None:
    state = load_model(config_of(model=str(place / "vit"))).model.state_dict()
    name = "patch_embed.proj.weight"
    torch.save(state | {name: state[name][..., ::2, ::2].clone()}, tmp_path / "small.pt")
    config = config_of(model=str(place / "vit"), checkpoint=tmp_path / "small.pt")
    with pytest.warns(UserWarning, match=rf"small\.pt: resampled to the size of the model: {name} \("):
        load_model(config)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_pictures_with_labels_are_made_as_those_without(
    mode: str, config_of: Configure, tmp_path: Path
) -> None:
    names = [f"{split}/{kind}/{i}.png" for split, kind, i in product(("train", "test"), "ab", range(9))]
    write_folder(tmp_path, dict(zip(names, map(encoded, noise(36, 3, 50, 70)), strict=True)))
    vit, found = load_model(config_of()), []
    vit.model.pretrained_cfg |= {"crop_mode": mode, "interpolation": "bilinear"}
    for changes in ({"images": str(tmp_path), "labels": True}, {"images": str(tmp_path / "test")}):
        few = config_of(calibration=2, ranking=2, measured=14, **changes)
        with Progress(disable=True) as progress:
            found.append(load_material(few, vit, progress))
    every = torch.cat([found[1].measured, found[1].ranking, found[1].fitting]).int()
    for picture in found[0].measured.int():
        assert (every - picture).abs().amax((1, 2, 3)).min() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 32, "width": 32}},
        {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3},
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3},
    ],
)
def test_pictures_are_made_as_by_the_processor(
    changes: dict[str, Any], transformers_folder: Path, tmp_path: Path
) -> None:
    """Of ViT, DeiT and DINOv2, on pictures that are not square."""
    shutil.copytree(transformers_folder, folder := tmp_path / "model")
    kind = transformers.BitImageProcessor if "crop_size" in changes else transformers.ViTImageProcessor
    processor = kind(**changes)
    processor.save_pretrained(folder)
    vit = adapter_of(transformers.ViTForImageClassification.from_pretrained(folder).eval())
    small = Image.fromarray(noise(1, 3, 4, 6)[0].permute(1, 2, 0).numpy())
    picture = small.resize((72, 48), Image.Resampling.BICUBIC)
    made = normalise_of(vit.model)(vit.transform()(picture)[None])
    own = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(made, own, rtol=0, atol=0.03)


@pytest.mark.parametrize("name", torchvision.models.list_models(include="vit_*"))
def test_pictures_are_made_as_by_published_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of torchvision differ in crop and interpolation."""
    own = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    make = partial(torchvision.models.VisionTransformer, own.crop_size[0], own.crop_size[0] // 2, 1, 1, 8, 8)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: make())
    vit = adapter_of(torchvision_vit(name, pretrained=False))
    small = Image.fromarray(noise(1, 3, 9, 7)[0].permute(1, 2, 0).numpy())
    picture = small.resize((700, 900))
    assert normalise_of(vit.model)(vit.transform()(picture)[None]).allclose(own(picture), atol=1e-5)


def test_how_pictures_are_made_is_saved(tmp_path: Path) -> None:
    vit = torchvision.models.VisionTransformer(16, 8, 1, 1, 8, 8).eval()
    vit.pictures = {"interpolation": "bicubic", "crop_pct": 1.0}
    posattn.save(to_positional(vit, torch.rand(2, 3, 16, 16)), tmp_path / "saved")
    found = adapter_of(posattn.load(tmp_path / "saved")).data_config()
    assert {name: found[name] for name in vit.pictures} == vit.pictures


def test_a_run_is_converted_in_another_folder(
    config_of: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named set is where --data-dir says now; of a path the error says why it is needed."""
    cifar = [encoded(picture) for picture in noise(10, 3, 16, 16)]
    for place in (tmp_path / "data" / "cifar10", tmp_path / "own"):
        place.mkdir(parents=True)
        for split in ("train", "test"):
            pq.write_table(pa.table({"img": cifar, "label": [0, 1] * 5}), place / f"{split}.parquet")
    monkeypatch.chdir(tmp_path)
    for data in (DataConfig("cifar10"), DataConfig("own")):
        recipe = replace(images_recipe(smoke=True), data=data, models=(ORIGINAL,), seeds=1)
        with open_run(tmp_path / f"run-{data.data}", "images", recipe) as folder:
            vit = build(recipe.size, ORIGINAL, 0, data.load("test"))
            folder.save_tensors(weights_name(ORIGINAL, 0), vit.state_dict())
            folder.finish({"page": []})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    named = config_of(model="../run-cifar10", images="cifar10", data_dir=Path("../data"))
    assert load_model(named).image_size == (16, 16)
    with pytest.raises(
        ValueError, match=r"own, whose images give .* cannot be read from this folder: unknown"
    ):
        load_model(config_of(model="../run-own", images="../own"))


def test_pictures_of_a_run_are_read_as_it_reads_them(config_of: Configure, tmp_path: Path) -> None:
    """Its columns, and its own crop of pictures that are not square."""
    pictures = noise(40, 3, 20, 30)
    for split, part in zip(("train", "test"), pictures.split(20), strict=True):
        table = {"img": [encoded(one) for one in part], "label": [0, 1] * 10, "coarse": [0] * 10 + [1] * 10}
        pq.write_table(pa.table(table), tmp_path / f"{split}.parquet")
    data = MemoryDataConfig(str(tmp_path), image_size=8, label_column="coarse")
    default = images_recipe(smoke=True)
    recipe = replace(default, data=DataConfig(**vars(data)), models=(ORIGINAL,), seeds=1)
    with open_run(tmp_path / "run", "images", recipe) as folder:
        vit = build(recipe.size, ORIGINAL, 0, data.load("test"))
        folder.save_tensors(weights_name(ORIGINAL, 0), vit.state_dict())
        folder.finish({"page": []})
    settings = config_of(model=str(tmp_path / "run"), images=str(tmp_path), labels=True)
    with Progress(disable=True) as progress:
        found = load_material(replace(settings, measured=20, ranking=5), load_model(settings), progress)
    assert found.measured_labels is not None
    rows = (found.measured[:, None] == data.load("test").images).flatten(2).all(2).long().argmax(1)
    assert found.measured_labels.tolist() == (rows >= 10).long().tolist()
    assert rows.unique().numel() == 20


def test_torchvision(config_of: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = partial(torchvision.models.VisionTransformer, 32, 8, 2, 3, 24, 32, num_classes=5)
    small = make()
    torch.save({"model": small.state_dict()}, tmp_path / "weights.pt")
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: make())
    vit = load_model(config_of(model="torchvision:vit_b_16", checkpoint=tmp_path / "weights.pt"))
    assert torch.equal(vit.model.class_token, small.class_token)
    assert normalise_of(vit.model).mean == (0.485, 0.456, 0.406)
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"other.pt does not fit torchvision:vit_b_16: Error\(s\) in loading"
    ):
        load_model(config_of(model="torchvision:vit_b_16", checkpoint=tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="unknown model of torchvision 'vit_z'; known: vit_b_16"):
        load_model(config_of(model="torchvision:vit_z"))


def test_what_could_not_be_saved_is_refused_first(
    config_of: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any picture is read."""
    norm = partial(torch.nn.LayerNorm, eps=0.1)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 3, 24, 32, num_classes=5, norm_layer=norm)
    torch.save(vit.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: vit)
    with pytest.raises(
        ValueError, match=r"cannot be built again from its config: .*ln_1 is LayerNorm.*eps=0.1"
    ):
        load_model(config_of(model="torchvision:vit_b_16", checkpoint=tmp_path / "weights.pt"))


def test_a_run_folder(config_of: Configure, trained: Path) -> None:
    """One channel, as digits have; pictures enter as they did in training."""
    name = weights_name(ORIGINAL, 1)
    config = config_of(model=str(trained), checkpoint=Path(name), images="digits", calibration=4)
    vit = load_model(config)
    digits = load_images("digits", "test")
    expected = build(ModelSize(**RunFolder(trained).config["config"]["size"]), ORIGINAL, 1, digits).eval()
    with Progress(disable=True) as progress:
        material = load_material(config, vit, progress)
    assert material.measured.shape == (14, 1, 8, 8)
    assert material.measured.max() > 200
    batch = normalise_of(vit.model)(material.measured)
    torch.testing.assert_close(batch, to_float(material.measured))
    with torch.no_grad():
        torch.testing.assert_close(vit.model(batch), expected(batch))
    assert (
        posattn.freeze_attention(to_positional(vit.model, batch))._model_args["base"]
        == "vit_tiny_patch16_224"
    )
    for checkpoint in (None, Path("images-ViT-7")):
        with pytest.raises(
            ValueError, match=r"holds images-ViT-0, images-ViT-1, .*: name one as --checkpoint, got"
        ):
            load_model(config_of(model=str(trained), checkpoint=checkpoint))
    with pytest.raises(ValueError, match="no heads to convert: its attention is positional in every block"):
        load_model(config_of(model=str(trained), checkpoint=Path(weights_name(POSITIONAL, 0))))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "vit_of_nobody"}, ValueError, "unknown model 'vit_of_nobody'"),
        (
            {"model": "swin_tiny_patch4_window7_224"},
            TypeError,
            r"\(WindowAttention\) of SwinTransformer is not sup",
        ),
        ({"checkpoint": Path("no.pt")}, FileNotFoundError, "there is no checkpoint no.pt"),
    ],
)
def test_what_is_refused(
    changes: dict, error: type[Exception], message: str, config_of: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    monkeypatch.setattr("posattn.recipes.convert.models.reach", lambda repository: None)
    with pytest.raises(error, match=message):
        load_model(config_of(**changes))


def test_folders_without_a_model(config_of: Configure, transformers_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is no run folder, and its config.json is not of timm or transformers"
    ):
        load_model(config_of(model=str(tmp_path)))
    with pytest.raises(ValueError, match=r"--checkpoint .* is for models of timm"):
        load_model(config_of(model=str(transformers_folder), checkpoint=transformers_folder / "config.json"))
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZE))
    clip.save_pretrained(tmp_path / "clip")
    with pytest.raises(
        TypeError, match=r"layers.0.self_attn \(CLIPAttention\) of CLIPVisionModel is not supported"
    ):
        load_model(config_of(model=str(tmp_path / "clip")))


def test_one_class_has_no_accuracy(config_of: Configure, place: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    for split in ("train", "test"):
        shutil.copytree(place / "labelled" / split / "class0", tmp_path / "pictures" / split / "class0")
    config = config_of(images=str(tmp_path / "pictures"), labels=True)
    with Progress(disable=True) as progress, pytest.raises(ValueError, match="has one class only, class0"):
        load_material(config, load_model(config), progress)

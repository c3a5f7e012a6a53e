"""`posattn inspect`: models of run folders, and what goes wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from layouts import encoded, noise, write_folder
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

from posattn import cli
from posattn.recipes.demo.settings import DemoConfig
from posattn.recipes.images.settings import ImagesConfig
from posattn.recipes.kit.classifiers import build, weights_name
from posattn.recipes.kit.settings import SMALL
from posattn.runs.folder import RunFolder, open_run
from posattn.vision.data.config import DataConfig
from posattn.vision.data.images import load_images, to_float
from posattn.vision.inspect.inspection import inspect_attention
from posattn.vision.training.config import TrainConfig


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    *told, error = said.splitlines()
    assert error.startswith("posattn: ")
    assert not any(line.startswith("Traceback") for line in told)
    return error


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder as the demo leaves it, with weights that differ from the start."""
    images = ImagesConfig(size=SMALL, seeds=2, train=TrainConfig(epochs=1, warmup_epochs=0.5), seed=3)
    run = open_run(tmp_path / "run", "demo", DemoConfig(images=images))
    held = load_images("digits", "test")
    for name in images.models:
        for seed in (3, 4):
            model = build(SMALL, name, seed, held)
            weights = {key: value + 0.1 for key, value in model.state_dict().items()}
            run.save_tensors(weights_name(name, seed), weights)
    run.finish({"title": "", "summary": "", "page": []})
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["images-ViT-4", "images-positional-ViT-3", "images-ViT-3:start"])
def test_a_model_of_a_run_folder_is_inspected_as_it_was_trained(
    trained: Path, name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cli.main(["inspect", str(trained), "--images", "digits", "--checkpoint", name, "--out", str(out)])
    held = load_images("digits", "test")
    kind = "positional ViT" if "positional" in name else "ViT"
    model = build(SMALL, kind, int(name.removesuffix(":start")[-1]), held)
    if not name.endswith(":start"):
        model.load_state_dict(RunFolder(trained).load_tensors(name))
    expected = inspect_attention(model, to_float(held.images))
    table = pd.read_parquet(out / "table.parquet")
    pd.testing.assert_frame_equal(table, expected, rtol=1e-4)  # other batches, nearly uniform maps
    maps = load_file(out / "maps.safetensors")
    assert torch.equal(maps["pictures"], held.images[:3])
    assert maps["average.0"].shape == (2, *maps["examples.0"].shape[-2:])


@pytest.mark.parametrize("name", ["images-ViT-3", "images-ViT-3:start"])
def test_images_of_another_shape_are_refused(
    trained: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {f"{kind}/{i}.png": encoded(noise(3, 8, 8)) for kind in "ab" for i in range(5)}
    write_folder(tmp_path / "colours", pictures)
    command = ["inspect", str(trained), "--images", str(tmp_path / "colours"), "--checkpoint", name]
    assert "is of another model: of another shape head.bias" in fails(
        [*command, "--out", str(tmp_path / "out")], capsys
    )


def test_images_of_another_grid_of_as_many_patches_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (height, width) in {"wide": (8, 16), "tall": (16, 8)}.items():
        picture = encoded(noise(3, height, width))
        write_folder(Path(name), {f"{kind}/{i}.png": picture for kind in "ab" for i in range(5)})
    images = ImagesConfig(
        data=DataConfig("wide"), size=SMALL, seeds=1, train=TrainConfig(epochs=1, warmup_epochs=0)
    )
    run = open_run(tmp_path / "run", "images", images)
    held = load_images("wide", "test")
    run.save_tensors("images-ViT-0", build(SMALL, "ViT", 0, held).state_dict())
    run.finish({"title": "", "summary": "", "page": []})
    command = ["inspect", "run", "--checkpoint", "images-ViT-0", "--images", "tall", "--out", "out"]
    assert "run was trained on images of 3x8x16, tall has 3x16x8" in fails(command, capsys)
    Path("wide").rename("moved")
    cli.main([*command[:-3], "moved", "--out", "moved-out"])
    shape, split = RunFolder.reading(Path("moved-out")).result["notes"]
    assert shape.startswith(
        "the shape of the images that the run was trained on is not known: unknown data set"
    )
    assert split == "moved has no test split: inspected on 2 images of a fixed fifth of it"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        colours = random.integers(0, 256, (40 + number, 60, 3), np.uint8)
        Image.fromarray(colours).save(folder / f"{number}.png")
    return folder


def test_pictures_are_resized_by_the_models_own_data_config(pictures: Path, tmp_path: Path) -> None:
    cli.main(["inspect", "test_vit", "--images", str(pictures), "--out", str(tmp_path / "out")])
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    transform = create_transform(**resolve_model_data_config(model))
    batch = torch.stack([transform(Image.open(path)) for path in sorted(pictures.iterdir())])
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "out" / "table.parquet"), inspect_attention(model, batch)
    )


def table_of(model: str, pictures: Path, out: Path, *options: str) -> pd.DataFrame:
    cli.main(["inspect", model, "--images", str(pictures), *options, "--out", str(out)])
    return pd.read_parquet(out / "table.parquet")


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_a_folder_that_timm_saved_is_loaded(prefix: str, pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("test_vit", num_classes=7).eval()
    timm.models.save_for_hf(model, tmp_path / "saved")
    found = table_of(f"{prefix}{tmp_path / 'saved'}", pictures, tmp_path / "out")
    transform = create_transform(**resolve_model_data_config(model))
    batch = torch.stack([transform(Image.open(path)) for path in sorted(pictures.iterdir())])
    pd.testing.assert_frame_equal(found, inspect_attention(model, batch))


@pytest.mark.parametrize("prefix", ["transformers:", ""])
def test_a_folder_that_transformers_saved_is_loaded(
    prefix: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional library")
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    for each in (model, processor):
        each.save_pretrained(tmp_path / "saved")
    found = table_of(f"{prefix}{tmp_path / 'saved'}", pictures, tmp_path / "out")
    held = [Image.open(path) for path in sorted(pictures.iterdir())]
    batch = processor(held, return_tensors="pt")
    expected = inspect_attention(model, batch)
    # the processor in use may resize by other kernels
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
    assert found.attrs["grid"] == [4, 4]
    config = tmp_path / "saved" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    out = ["--images", str(pictures), "--out", str(tmp_path / "deeper")]
    said = fails(["inspect", f"{prefix}{tmp_path / 'saved'}", *out], capsys)
    assert "saved lacks 16 weights of the model: " in said


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("hf-hub:someone/her-vit", "someone/her-vit"),
        ("hf-hub:someone/her-vit@main", "someone/her-vit"),
        ("transformers:someone/her-vit", "someone/her-vit"),
        ("vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_without_a_network_a_hub_name_fails_at_once(
    model: str,
    repository: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def unreachable(self: object, repo_id: str, *, timeout: float) -> None:
        asked.append((repo_id, timeout))
        raise OSError("the network is down")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    said = fails(["inspect", model, "--images", str(pictures), "--out", str(tmp_path / "out")], capsys)
    assert f"{repository} is not cached, and the hub does not give it: the network is down" in said
    ((name, timeout),) = asked
    assert name == repository
    assert timeout <= 5


def test_memory_and_layers_are_flags(pictures: Path, tmp_path: Path) -> None:
    whole = table_of("test_vit", pictures, tmp_path / "whole")
    small = table_of("test_vit", pictures, tmp_path / "small", "--memory", "1e-6", "--batch-size", "1")
    # errors of maps that are nearly uniform
    pd.testing.assert_frame_equal(small, whole, rtol=1e-4, atol=3e-5)
    some = table_of("test_vit", pictures, tmp_path / "some", "--layers", "1", "4")
    expected = whole[whole.layer.isin([1, 4, -1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "some" / "report.html").exists()


def test_a_folder_of_an_inspection_holds_no_models(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table_of("test_vit", pictures, tmp_path / "one", "--layers", "1")
    for images in (str(pictures), "digits"):
        out = ["--images", images, "--out", str(tmp_path / "two")]
        said = fails(["inspect", str(tmp_path / "one"), *out], capsys)
        assert (
            "one, a run of inspect, holds no trained models: runs of images and of the demo keep theirs"
            in said
        )


def test_bad_input_is_one_line(
    trained: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(model: str, *options: str, images: Path | str = pictures) -> str:
        out = ["--out", str(tmp_path / "out"), "--overwrite"]
        return fails(["inspect", model, "--images", str(images), *options, *out], capsys)

    assert "unknown model 'vit_tiniest'" in said("vit_tiniest")
    assert "no checkpoint /nowhere" in said("test_vit", "--checkpoint", "/nowhere")
    save_file({"conv1": torch.zeros(2)}, tmp_path / "other.safetensors")
    said_of_other = said("test_vit", "--checkpoint", str(tmp_path / "other.safetensors"))
    assert "other.safetensors: nothing of the checkpoint belongs to this VisionTransformer" in said_of_other
    assert "ResNet has no attention" in said("test_resnet")
    assert "--limit must be at least 2, got 1" in said("test_vit", "--limit", "1")
    one = next(file for file in Path(pictures).rglob("*") if file.is_file())
    assert f"statistics over images need at least two, {one} holds 1" in said("test_vit", images=one)
    assert "unknown data set 'cats'" in said("test_vit", images="cats")
    assert "images-positional-ViT-4: name one as checkpoint" in said(str(trained), images="digits")


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("test_vit", ["--in-chans", "2"], "--in-chans must be one of 1, 3, got '2'"),
        ("test_vit", ["--img-size", "7"], "divide --img-size, got patch size=16, --img-size=7"),
        ("test_vit", ["--img-size", "2000000000"], "--img-size must be at most 8192, got 2000000000"),
        ("levit_128s", ["--img-size", "65"], "levit_128s does not take images of 3x65x65"),
        ("test_resnet", ["--img-size", "65"], "test_resnet cannot be loaded with --img-size 65"),
        ("torchvision:resnet18", [], "unknown model of torchvision 'resnet18'; known: vit_b_16"),
        ("torchvision:vit_b_16", ["--in-chans", "1"], "--in-chans 1 is not for models of torchvision"),
        ("transformers:x", ["--img-size", "48"], "--img-size 48 is not for models of transformers"),
        ("transformers:x", ["--checkpoint", "w.pth"], "--checkpoint w.pth is not for models of transformers"),
    ],
)
def test_a_setting_that_does_not_suit_the_model_is_refused_before_any_work(
    model: str,
    options: list[str],
    expected: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert expected in fails(
        ["inspect", model, "--images", str(pictures), *options, "--out", str(out)], capsys
    )
    assert not out.exists()


def test_settings_that_a_run_folder_fixes_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", str(trained), "--checkpoint", "images-ViT-3", "--images", "digits"]
    for option in (["--img-size", "8"], ["--in-chans", "1"], ["--skip-corrupt"]):
        said = fails([*command, *option, "--out", str(tmp_path / "out")], capsys)
        assert f"{' '.join(option)} is not for run folders such as {trained}" in said


def test_pictures_become_as_many_channels_as_are_asked_for(pictures: Path, tmp_path: Path) -> None:
    size = ["--in-chans", "1", "--img-size", "64", "--layers", "0"]
    found = table_of("test_vit", pictures, tmp_path / "out", *size)
    torch.manual_seed(0)
    model = timm.create_model("test_vit", in_chans=1, img_size=64).eval()
    data = {"mean": (0.5,), "std": (0.5,), "input_size": (1, 64, 64), "crop_pct": 0.95}
    transform = create_transform(**{**resolve_model_data_config(model), **data})
    grey = [Image.open(path).convert("L") for path in sorted(pictures.iterdir())]
    expected = inspect_attention(model, torch.stack([transform(one) for one in grey]), layers=[0])
    pd.testing.assert_frame_equal(found, expected)
    assert "Random start: 3 images" in (tmp_path / "out" / "result.json").read_text()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{not json", "config.json is not JSON"),
        (b"\xff\xfe\x00", "config.json is not JSON"),
        (b"[" * 99_999, "config.json is not JSON"),
        (b"[1, 2]", "config.json must hold a mapping, got list"),
        (b'{"architecture": 5}', "config.json: architecture must be text, got 5"),
        (b'{"architecture": "vit_no"}', "cannot be loaded: Unknown model"),
        (b'{"model_type": "no"}', "cannot be loaded: The checkpoint"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_broken_config_of_a_model_folder_is_named(
    command: str,
    content: bytes,
    expected: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if b"model_type" in content:
        pytest.importorskip("transformers", reason="transformers is an optional library")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(content)
    out = ["--out", str(tmp_path / "out")]
    said = fails([command, str(folder), "--images", str(pictures), *out], capsys)
    assert str(folder) in said
    assert expected in said


def test_what_was_finished_before_a_failure_is_kept(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posattn.recipes.inspect.run.BATCH", 2)
    (pictures / "9.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    said = fails(["inspect", "test_vit", "--images", str(pictures), "--out", str(out)], capsys)
    assert "9.png cannot be decoded" in said
    assert f"the table of the first 2 images is in {out}/table.csv" in said
    assert "--resume" not in said
    assert pd.read_parquet(out / "table.parquet").attrs["images"] == 2
    assert not (out / "report.html").exists()


def test_two_images_are_too_few_for_some_errors(tmp_path: Path) -> None:
    a, b = (tmp_path / name for name in "ab")
    for out, seed in ((a, "0"), (b, "1")):
        cli.main(
            ["inspect", "test_vit", "--images", "digits", "--limit", "2", "--seed", seed, "--out", str(out)]
        )
    assert pd.read_csv(a / "table.csv").query("measure == 'positionality'").stderr.isna().all()
    cli.main(["report", str(a), "--export", str(tmp_path / "page")])
    cli.main(["compare", str(a), str(b), "--out", str(tmp_path / "both")])
    pages = [a / "report.html", tmp_path / "page" / "README.md", tmp_path / "both" / "report.html"]
    assert all("± nan" not in page.read_text("utf-8") for page in pages)
    claim = RunFolder.reading(tmp_path / "both").result["page"][0]["claim"]
    assert claim.startswith("0 of 0 differences"), claim  # paired, by a jackknife over two groups

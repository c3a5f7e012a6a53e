"""`posattn convert` on a small ViT and small pictures."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import timm
import torch
from conversions import Configure, convert
from layouts import write_unlike_splits
from rich.progress import Progress
from safetensors.torch import load_file

import posattn
from posattn.cli import main
from posattn.recipes.convert import page, timing
from posattn.recipes.convert.measuring import chosen
from posattn.recipes.convert.models import load_model
from posattn.recipes.convert.plan import Plan
from posattn.recipes.convert.results import mean_of_random
from posattn.recipes.convert.subject import load_material
from posattn.runs.folder import RunFolder
from posattn.runs.report.html import build_report
from posattn.vision.convert.averages import average_maps
from posattn.vision.convert.heads import OffsetAttentionMaps
from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.needs import Unit
from posattn.vision.convert.orders import ALONE, GREEDY, Point
from posattn.vision.convert.reruns import subject_of
from posattn.vision.convert.saving import heads_kept

NAME = "vit_tiny_patch16_224"


def test_a_whole_conversion(config_of: Configure, place: Path, tmp_path: Path) -> None:
    config = config_of(heads="50%", recover=4)
    folder = convert(config, tmp_path / "run")
    found = folder.result["convert"]
    assert found["chosen"]["heads"] == 6
    assert found["chosen"]["of"] == 12
    assert len(found["heads"]) == 4
    assert sum(one["converted"] for one in found["heads"]) == 2
    curves = found["curves"]
    assert set(curves) == {
        "one at a time",
        "greedy",
        "positionality",
        "variation over images",
        "random 1",
        "random",
    }
    for one in curves.values():
        assert one["share"] == [0.0, 0.25, 0.75, 1.0]
        assert one["cosine"]["loss"][0] == pytest.approx(0, abs=1e-6)
        assert one["cosine"]["loss"][-1] == pytest.approx(curves["greedy"]["cosine"]["loss"][-1])
        assert one["cosine"]["stderr"][-1] > 0
    assert list(found["quality"]) == ["before recovery", "after refit", "after recovery"]
    before = found["quality"]["before recovery"]["kept"]
    assert before["cosine"] == pytest.approx(found["chosen"]["kept"]["cosine"], abs=1e-4)
    (timed,) = found["speed"]["sizes"].values()
    assert timed["converted"]["parameters"] < timed["original"]["parameters"]
    assert len(found["recovery"]) == 1
    gain, error = found["recovery_gain"]
    assert found["saved"] == ("after recovery" if gain > error else "after refit")
    page = build_report(tmp_path / "run").read_text()
    assert curves["random"]["cosine"]["loss"] == pytest.approx(curves["random 1"]["cosine"]["loss"])
    for text in ("6 of 12 heads use constant maps", "Each block alone", "greedy"):
        assert text in page
    model = posattn.load(tmp_path / "run" / "model")
    kinds = {int(b): {int(h): k for h, k in of.items()} for b, of in found["chosen"]["kinds"].items()}
    assert heads_kept(model) == kinds
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_maps_by_offset_are_timed_as_they_are_used(config_of: Configure, monkeypatch) -> None:
    """Computed once and kept, not at every pass."""
    vit = timm.create_model(NAME, img_size=32, patch_size=8, embed_dim=24, depth=1).eval()
    subject = subject_of(vit, average_maps(vit, torch.randn(2, 3, 32, 32), [0]), 3)
    computed, compute = [], OffsetAttentionMaps.compute

    def counted(self: OffsetAttentionMaps, *arguments: object) -> torch.Tensor:
        computed.append(self)
        return compute(self, *arguments)

    monkeypatch.setattr(OffsetAttentionMaps, "compute", counted)
    timing.seconds_of_kinds(subject, config_of(kinds=("relative",), window=3))
    assert len(computed) == 1


def test_a_model_of_images_that_are_not_square(config_of: Configure, tmp_path: Path) -> None:
    vit = timm.create_model(NAME, img_size=(32, 16), patch_size=8, embed_dim=24, depth=2, num_classes=0)
    timm.models.save_for_hf(vit, tmp_path / "vit", safe_serialization=True)
    config = config_of(model=f"local-dir:{tmp_path / 'vit'}", heads="50%")
    result = convert(config, tmp_path / "run").result
    assert set(result["convert"]["speed"]["sizes"]) == {"32 x 16"}
    assert " at 32 x 16 px." in result["page"][0]["claim"]


def test_a_recovery_that_makes_the_model_worse_is_undone(config_of: Configure, tmp_path: Path) -> None:
    config = config_of(heads="50%", recover=3, lr=0.3, kinds=("table",), points=1, steps=1)
    folder = convert(config, tmp_path / "run")
    found = folder.result["convert"]
    assert found["saved"] == "after refit"
    assert found["recovery_gain"][0] < 0
    quality = found["quality"]
    assert quality["after recovery"]["kept"]["cosine"] < quality["after refit"]["kept"]["cosine"]
    saved, refitted = (
        load_file(tmp_path / "run" / name) for name in ("model/model.safetensors", "refitted.safetensors")
    )
    assert saved.keys() == refitted.keys()
    assert all(torch.equal(value, saved[name]) for name, value in refitted.items())
    page = build_report(tmp_path / "run").read_text()
    assert "Recovery was undone" in page
    assert f"cosine of the features: {quality['after refit']['kept']['cosine']:.3f}" in page


@pytest.mark.parametrize("recover", [0, 1])
def test_pictures_are_fitted_to_that_nothing_is_measured_on(
    config_of: Configure, place: Path, recover: int
) -> None:
    """A refit has as many pictures as it asks for, where there are so many."""
    with Progress(disable=True) as progress:
        config = config_of(refit=20, recover=recover)
        found = load_material(config, load_model(config), progress)
        assert [len(part) for part in found[:4]] == [8, 10, 14, 26 if recover else 20]
        labelled = config_of(refit=20, recover=recover, images=str(place / "labelled"), labels=True)
        other = load_material(labelled, load_model(labelled), progress)
    assert len(other.fitting) == 14  # of 24 for training
    (_, own, measured, fitting), (_, ranking, _, training) = (
        [{picture.numpy().tobytes() for picture in part} for part in one[:4]] for one in (found, other)
    )
    assert {picture.numpy().tobytes() for picture in found.calibration} <= fitting
    assert not fitting & (own | measured)
    assert not own & measured
    assert not training & ranking


def test_labels(config_of: Configure, place: Path, tmp_path: Path) -> None:
    """Without a class for each label the nearest neighbours say which it is; the test split is measured."""
    config = config_of(images=str(place / "labelled"), labels=True, heads="20%", kinds=("relative",))
    found = convert(config, tmp_path / "run").result["convert"]
    assert found["metric"] == "accuracy"
    assert 0 < found["original"]["accuracy"] <= 1
    assert "accuracy" in found["curves"]["greedy"]
    assert {kind for of in found["chosen"]["kinds"].values() for kind in of.values()} == {"relative"}


def test_splits_of_other_classes_have_no_accuracy(config_of: Configure, tmp_path: Path) -> None:
    write_unlike_splits(pictures := tmp_path / "pictures")
    with pytest.raises(ValueError, match="have not the same classes; only in the train split of"):
        convert(config_of(images=str(pictures), labels=True), tmp_path / "run")


def test_sizes_that_maps_by_offset_serve(config_of: Configure, place: Path, tmp_path: Path) -> None:
    config = config_of(kinds=("convolution",), sizes=(32, 48), heads="10%", window=3)
    found = convert(config, tmp_path / "run").result["convert"]
    assert set(found["speed"]["sizes"]) == {"32", "48"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "--metric accuracy needs --labels"),
        ({"budget": 0.9, "heads": "40%"}, "--heads 40% and --budget 0.9 exclude each other"),
        (
            {"heads": "40"},
            "--heads must be a share of all heads, above 0% and at most 100%, such as 40%; got '40'",
        ),
        ({"heads": "140%"}, "got '140%'"),
        ({"heads": "0%"}, "got '0%'"),
        ({"window": 4}, "--window must be odd, got 4"),
        ({"measured": 4}, "--measured must be at least 5 for 3 nearest neighbours, got 4"),
        ({"ranking": 2}, "--ranking must be at least 5 for 3 nearest neighbours, got 2"),
        ({"calibration": 1}, "--calibration must be at least 2, got 1"),
        (
            {"measured": 400},
            "holds 50 pictures, --calibration, --ranking and --measured need 418: lower them",
        ),
        (
            {"image_size": 33},
            "patch height must divide --image-size height, got patch height=8",
        ),
        ({"sizes": (48,)}, "tables serve 32 x 32 px only, got --sizes 48: use --kinds relative convolution"),
        ({"sizes": (44,)}, "patch height must divide --sizes height"),
        ({"checkpoint": Path("nowhere.pt")}, "there is no checkpoint nowhere.pt"),
        ({"model": NAME, "checkpoint": Path("other")}, f"does not fit {NAME}"),
        ({"model": "vit_of_nobody"}, "unknown model 'vit_of_nobody'"),
        ({"rounds": 1}, "--rounds must be at least 2, got 1"),
        (
            {"recover": 1, "batch_size": 27},
            "--batch-size needs at least 27 pictures besides those of --ranking",
        ),
        (
            {"ranking": 30, "calibration": 3, "limit": 48},
            "--refit needs at least 5 pictures besides those of --ranking and --measured, got 4",
        ),
        ({"budget": 1.0}, "no block can be converted within --budget 1.0 of cosine"),
    ],
)
def test_bad_input(changes: dict, message: str, config_of: Configure, place: Path, tmp_path: Path) -> None:
    if changes.get("checkpoint") == Path("other"):
        changes = {**changes, "checkpoint": place / "vit" / "model.safetensors"}
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("(", r"\(")):
        convert(config_of(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_models_that_cannot_be_converted(config_of: Configure, place: Path, tmp_path: Path) -> None:
    resnet = timm.create_model("resnet10t")
    torch.save(resnet.state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(TypeError, match=r"ResNet is not supported: .* no attention"):
        convert(config_of(model="resnet10t", checkpoint=tmp_path / "resnet.pt"), tmp_path / "a")
    vit = timm.create_model(NAME, img_size=32, embed_dim=24, depth=2)
    posattn.save(to_positional(vit, torch.randn(2, 3, 32, 32), blocks=[0]), tmp_path / "converted")
    with pytest.raises(ValueError, match="has converted heads already: convert the original model"):
        convert(config_of(model=f"local-dir:{tmp_path / 'converted'}"), tmp_path / "b")
    with torch.no_grad():
        vit.patch_embed.proj.weight.zero_()
    timm.models.save_for_hf(vit, tmp_path / "blind", safe_serialization=True)
    with pytest.raises(ValueError, match="features are constant over the 10 images"):
        convert(config_of(model=f"local-dir:{tmp_path / 'blind'}"), tmp_path / "c")
    with torch.no_grad():
        vit.blocks[1].attn.qkv.weight.fill_(torch.nan)
    timm.models.save_for_hf(vit, tmp_path / "nan", safe_serialization=True)
    with pytest.raises(ValueError, match="the average attention of block 1 is not finite"):
        convert(config_of(model=f"local-dir:{tmp_path / 'nan'}"), tmp_path / "e")
    norms = timm.create_model(
        "vit_relpos_small_patch16_rpn_224", img_size=32, embed_dim=24, depth=1, num_heads=3
    )
    timm.models.save_for_hf(norms, tmp_path / "norms", safe_serialization=True)
    with pytest.raises(TypeError, match=r"block 0 cannot be refitted: .*; use --refit 0"):
        convert(config_of(model=f"local-dir:{tmp_path / 'norms'}"), tmp_path / "d")


def test_result_is_json(config_of: Configure, place: Path, tmp_path: Path) -> None:
    folder = convert(config_of(heads="10%", random_orders=1, points=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == folder.result


def test_the_command(
    config_of: Configure, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pictures, out = f"local-dir:{place / 'vit'}", str(place / "pictures"), str(tmp_path / "run")
    sizes = [
        "--calibration",
        "8",
        "--ranking",
        "12",
        "--measured",
        "14",
        "--points",
        "2",
        "--random-orders",
        "1",
        "--rounds",
        "2",
        "--batch",
        "1",
    ]
    given = [model, "--images", pictures, "--by", "block", "--heads", "30%", "--out", out, *sizes]
    main(["convert", *given])
    assert "heads use constant maps" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["convert", *given])
    assert "--overwrite" in capsys.readouterr().err
    main(["convert", *given, "--resume"])
    for wrong, message in (
        (["--heads", "half"], "--heads must be a share of all heads"),
        (["--kinds", "table", "table"], "--kinds must not repeat a value"),
        (["--budget", "1.5"], "--budget must be at most 1"),
    ):
        with pytest.raises(SystemExit):
            main(["convert", model, "--images", pictures, "--out", str(tmp_path / "other"), *wrong])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("orders", [0, 1, 2])
def test_several_random_orders_are_named(orders: int, config_of: Configure) -> None:
    curve = {"share": [0.0, 1.0], "cosine": {"loss": [0.0, 0.1], "stderr": [0.0, 0.1]}}
    numbers = {"metric": "cosine", "curves": {"greedy": curve} | ({"random": curve} if orders else {})}
    (figure,) = page.curves(config_of(random_orders=orders), numbers).items
    assert ("mean over" in figure.caption) == (orders == 2)


def test_a_budget_that_nothing_keeps_is_named(config_of: Configure) -> None:
    points = [Point(0, 0, {}, {"cosine": 1.0}), Point(1, 3, {}, {"cosine": -0.5})]
    curves, orders = (dict.fromkeys((ALONE, GREEDY), each) for each in (points, [Unit(0, (0, 1, 2))]))
    plan = Plan(Mock(), {}, [], "cosine", Mock(), Mock())
    with pytest.raises(ValueError, match=r"no block can be converted within --budget 0.0 of cosine"):
        chosen(config_of(budget=0.0), plan, orders, curves, {}, RunFolder(Path()))


def test_random_orders_are_averaged() -> None:
    """Means over two orders; the error has a part over images and one over orders."""
    one, other = (
        {
            "share": [0, 1],
            "heads": [0, 2],
            "cosine": {"loss": [0.0, a], "stderr": [0.0, b], "kept": [1.0, 1 - a]},
        }
        for a, b in ((0.2, 0.03), (0.4, 0.04))
    )
    found = mean_of_random({"greedy": {}, "random 1": one, "random 2": other})["random"]
    assert found["heads"] == [0, 2]
    assert found["cosine"]["loss"] == pytest.approx([0, 0.3])
    assert found["cosine"]["kept"] == pytest.approx([1, 0.7])
    assert found["cosine"]["stderr"] == pytest.approx([0, ((0.03**2 + 0.04**2) / 2 + 0.02 / 2) ** 0.5])
    assert mean_of_random({"greedy": {}}) == {}


def test_the_claim_of_the_curves_names_the_share_that_was_measured(config_of: Configure) -> None:
    curve = {"share": [0.0, 0.3, 0.75, 1.0], "cosine": {"loss": [0.0, 0.1, 0.2, 0.4], "stderr": [0.0] * 4}}
    numbers = {"metric": "cosine", "curves": {"greedy": curve}}
    claim = page.curves(config_of(), numbers).claim
    assert claim.endswith("nearest to half of the heads: 0.100 by greedy (30%).")

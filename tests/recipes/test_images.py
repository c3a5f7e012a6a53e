"""The recipes on real images at their smoke settings, and what they share."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from layouts import encoded, noise, write_cifar, write_folder, write_svhn, write_unlike_splits
from rich.progress import Progress

from posattn import cli
from posattn.recipes import RECIPES
from posattn.recipes.images.page import skipped_text
from posattn.recipes.images.run import skipped_pictures, throughput, training_times
from posattn.recipes.images.settings import BUDGETS, PLAIN, TABLE
from posattn.recipes.kit import classifiers
from posattn.recipes.kit.classifiers import build, load_split, patch_permutation, rearranged
from posattn.recipes.kit.settings import (
    ARCHITECTURES,
    CONVIT,
    MIMETIC,
    ORIGINAL,
    ImageTraining,
    ModelSize,
)
from posattn.recipes.transplant.locality import local_maps
from posattn.recipes.transplant.run import ARMS, available_sizes, draw_per_class
from posattn.recipes.transplant.settings import transplant
from posattn.runs.folder import open_run
from posattn.vision.data.images import load_images, shuffle_patches
from posattn.vision.grid import Grid, distances


def smoke(name: str, out: Path) -> dict:
    cli.main(["run", name, "--smoke", "--jobs", "1", "--out", str(out)])
    return json.loads((out / "result.json").read_text())


def write_cifar100(folder: Path) -> None:
    names = {"fine_label_names": [f"class {i}" for i in range(100)]}
    write_cifar(folder / "cifar-100-python", {"train": 64, "test": 8}, "fine_labels", "meta", names)


def write_house_numbers(folder: Path) -> None:
    for split, count in (("train", 64), ("test", 8)):
        write_svhn(folder / f"{split}_32x32.mat", count)


def write_imagenet(folder: Path) -> None:
    for split, count in (("train", 32), ("val", 2)):
        for wnid in ("n01440764", "n01443537"):
            pictures = {f"{wnid}/{i}.JPEG": encoded(noise(3, 30 + i, 50)) for i in range(count)}
            write_folder(folder / split, pictures)


@pytest.mark.parametrize(
    ("recipe", "data", "write", "patch"),
    [
        ("images-cifar100", "cifar100", write_cifar100, 8),
        ("images-svhn", "svhn", write_house_numbers, 8),
        ("images-imagenet", "imagenet", write_imagenet, 56),
    ],
)
def test_sets_in_their_own_layouts(
    recipe: str, data: str, write: Callable[[Path], None], patch: int, tmp_path: Path
) -> None:
    write(tmp_path)
    options = ["--data", data, "--data-dir", str(tmp_path), "--patch-size", str(patch)]
    options += ["--workers", "1"] if data == "imagenet" else []
    short = [
        "--models",
        "positional ViT",
        "ConViT",
        "--seeds",
        "1",
        "--train.epochs",
        "1",
        "--train.batch-size",
        "32",
    ]
    where = ["--jobs", "1", "--out", str(tmp_path / "run")]
    cli.main(["run", recipe, "--smoke", *options, *short, *where])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["images"]["grid"] == [4, 4]
    assert all(0 <= value[0] <= 1 for value in result["images"]["final_accuracy"].values())
    if data == "imagenet":  # its pictures are decoded by other processes
        assert result["images"]["clock"] == "wall"


def test_every_model_is_compared_with_every_seed(tmp_path: Path) -> None:
    result = smoke("images", tmp_path / "run")
    images, timing = result["images"], result["timing"]
    assert list(images["final_accuracy"]) == ["ViT", "positional ViT", "relative", "hybrid"]
    assert all(len(values) == 2 for values in images["final_accuracy"].values())
    assert images["multiply_adds"]["positional ViT"] < images["multiply_adds"]["ViT"]
    for elapsed in timing["elapsed"].values():
        assert elapsed == sorted(elapsed)
        assert len(elapsed) == len(images["epoch"])
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    accuracies = [
        line["accuracy"] for line in logged if line["event"] == "images-ViT-1" and "accuracy" in line
    ]
    assert accuracies[-1] == images["final_accuracy"]["ViT"][1]
    gap = images["gaps"]["hybrid"]["final"]["values"]
    final = images["final_accuracy"]
    assert gap == pytest.approx([100 * (a - b) for a, b in zip(final["hybrid"], final["ViT"], strict=True)])
    titles = [item["title"] for section in result["page"] for item in section["items"]]
    assert "Accuracy minus the ViT's, at equal epochs" in titles
    # not so where one model's first epoch is slow
    overlap = any(gap["time"] for gap in images["gaps"].values())
    assert ("Accuracy minus the ViT's, at equal time" in titles) == overlap


@pytest.mark.parametrize(("device", "on_gpu"), [("cuda", True), ("cpu", False)])
def test_trainings_on_a_gpu_are_told_to_run_one_after_the_other(
    device: str, on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def sweep(name: str, *arguments: Any) -> dict[str, Any]:
        told.append(arguments[-1])
        return {"ViT/0": 1}

    monkeypatch.setattr(classifiers, "sweep", sweep)
    monkeypatch.setattr(classifiers, "PartialState", lambda: SimpleNamespace(device=torch.device(device)))
    with open_run(tmp_path / "run", "images", config := ImageTraining()) as run:
        done = classifiers.train_grid("images", print, config, [("ViT", 0)], run, Progress(disable=True))
    assert (done, told) == ({("ViT", 0): 1}, [on_gpu])


def test_seconds_to_the_originals_accuracy() -> None:
    quick, slow = {"elapsed": [1.0, 2.0], "seconds": 2.0}, {"elapsed": [2.0, 4.0], "seconds": 4.0}
    means = {"ViT": [0.5, 0.7], "fast": [0.7, 0.9], "bad": [0.1, 0.2]}
    timing = training_times([{"ViT": slow, "fast": quick, "bad": quick}], means)
    assert timing["seconds_to_original"] == {"ViT": 4.0, "fast": 1.0, "bad": None}


def test_pictures_are_skipped_of_splits_or_before_the_division() -> None:
    images = load_images("digits")
    train, test = replace(images, divided=False, skipped=3), replace(images, divided=False, skipped=2)
    assert skipped_text(skipped_pictures(train, test)).endswith("skipped: 3 training, 2 test.")
    parts = [replace(images, divided=True, skipped=3)] * 2
    assert skipped_pictures(*parts) == {"both": 3}
    assert "skipped: 3 before the set was divided" in skipped_text(skipped_pictures(*parts))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_the_images(name: str) -> None:
    size, images = ModelSize(embed_dim=16, depth=2, num_heads=4), load_images("digits", "test")
    model = build(size, name, 0, images).eval()
    assert model(torch.zeros(2, *images.shape)).shape == (2, 10)


def test_rivals_have_the_size_of_the_vit() -> None:
    """Width, depth and heads; ConViT gates ten of twelve blocks, which need a square of heads."""
    size, images = ModelSize(embed_dim=32, depth=6, num_heads=4), load_images("digits", "test")
    models = {name: build(size, name, 0, images) for name in (ORIGINAL, MIMETIC, CONVIT)}
    for model in models.values():
        assert (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads) == (32, 6, 4)
    gated = [type(block.attn).__name__ for block in models[CONVIT].blocks]
    assert gated == ["GPSA"] * 5 + ["MHSA"]
    qkv = (models[name].blocks[0].attn.qkv.weight for name in (ORIGINAL, MIMETIC))
    assert not torch.equal(*qkv)
    with pytest.raises(ValueError, match=r"num_heads must be a square \(1, 4, 9, ...\) for ConViT, got 2"):
        build(ModelSize(embed_dim=32, num_heads=2), CONVIT, 0, images)
    flat = replace(images, images=images.images.reshape(-1, 1, 2, 32))  # as many patches as those of 8 x 8 px
    with pytest.raises(ValueError, match="ConViT takes square images only, got 2 x 32"):
        build(size, CONVIT, 0, flat)


def test_the_table_trains_every_model_alike() -> None:
    """One plain recipe for the budgets of a CPU; sets whose pictures must not be mirrored are not."""
    of_cpu = {name: budget for name, budget in BUDGETS.items() if budget.size.embed_dim == 128}
    assert list(of_cpu) == [
        f"images-{name}" for name in ("cifar10", "cifar100", "tiny-imagenet", "imagenette", "svhn")
    ]
    for name, budget in of_cpu.items():
        config = RECIPES[name].config(False)
        assert (config.models, config.seeds, config.train_images) == (TABLE, 3, None)
        assert replace(config.train, epochs=30, flip=True) == PLAIN
        assert config.data.data == name.removeprefix("images-")
        assert (config.train.flip, budget.train.mixup) == (name != "images-svhn", 0)
        assert f"posattn run {name} --data-dir FOLDER" in RECIPES[name].config.__doc__
    assert [
        RECIPES[f"images-{name}"].config(False).train.epochs for name in ("tiny-imagenet", "imagenette")
    ] == [15, 60]


@pytest.mark.parametrize("size", [1, 2])
def test_both_splits_are_rearranged_alike(size: int) -> None:
    config = ImageTraining(train_images=50)
    train_set, test_set = (load_split(config, split) for split in ("train", "test"))
    assert len(train_set) == 50
    order = patch_permutation(train_set, size, seed=3)
    for images in (train_set, test_set):
        moved = rearranged(images, size, order).images
        assert torch.equal(shuffle_patches(moved, size, order.argsort()), images.images)
        assert not torch.equal(moved, images.images)


def test_bad_settings_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*options: str) -> str:
        with pytest.raises(SystemExit):
            cli.main(["run", "images", "--smoke", *options, "--out", str(tmp_path / "run"), "--overwrite"])
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    assert "unknown model 'VGG'" in said("--models", "VGG")
    assert "--train-images must be at most 1437, got 9999" in said("--train-images", "9999")
    assert "patch_size" in said("--patch-size", "3")
    assert "cifar10 not found" in said("--data", "cifar10", "--data-dir", str(tmp_path))
    write_unlike_splits(pictures := tmp_path / "pictures")
    line = said("--data", str(pictures), "--train.batch-size", "2")
    assert "have not the same classes; only in the train split of" in line
    for split, size in (("train", 16), ("test", 8)):
        names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)]
        write_folder(tmp_path / "sizes" / split, dict.fromkeys(names, encoded(noise(3, size, size))))
    line = said("--data", str(tmp_path / "sizes"), "--train.batch-size", "2")
    assert "has images of shape (3, 16, 16) to train on and of (3, 8, 8) to test on" in line
    assert "give an image_size to resize them to" in line


def test_shuffling(tmp_path: Path) -> None:
    final = smoke("shuffle", tmp_path / "run")["shuffle"]["final"]
    assert list(final) == ["plain", "patches", "pixels"]
    for models in final.values():
        assert all(len(values) == 2 for values in models.values())
    assert final["plain"]["ResNet"] != final["patches"]["ResNet"]


def test_transplanting(tmp_path: Path) -> None:
    target = smoke("transplant", tmp_path / "run")["targets"]["digits"]
    assert target["size"] == [2, 8]
    assert len(target["seeds"]) == 2
    for seed in target["seeds"]:
        assert list(seed) == list(ARMS)
        assert all(len(accuracies) == 2 for accuracies in seed.values())


def test_images_of_each_class_are_drawn() -> None:
    images = load_images("digits", "train")
    drawn = draw_per_class(images, 7, seed=3)
    assert drawn.labels.bincount().tolist() == [7] * 10
    assert not torch.equal(drawn.images, draw_per_class(images, 7, seed=4).images)
    assert available_sizes(replace(transplant(smoke=True), sizes=(10, 100, 1000)), "digits") == [10, 100]


def test_maps_of_random_locality_look_near_the_query() -> None:
    maps = local_maps((3, 4, 20, 20), (4, 5), seed=0)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 4, 20, dtype=torch.double))
    apart = distances(Grid(4, 5))
    assert (maps * apart).sum(-1).mean() < 0.8 * apart.mean()
    assert not torch.equal(maps[0, 0], maps[0, 1])


def test_images_per_second_are_timed_as_in_a_process_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Noted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append("model")
            return x.flatten(1)

    monkeypatch.setattr("posattn.recipes.images.run.keep_freed_memory", lambda: calls.append("memory"))
    found = throughput({"one": Noted()}, torch.rand(4, 1, 2, 2), 2)
    assert calls[:2] == ["memory", "model"]
    assert len(found["one"]) == 3

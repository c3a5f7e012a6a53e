"""Settings of the recipes on images that cannot work are refused before anything is written, and the flag is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from posattn import cli
from posattn.recipes.transplant.run import available_sizes
from posattn.recipes.transplant.settings import transplant
from posattn.vision.data.config import MemoryDataConfig


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("images --speed-rounds 1", "--speed-rounds must be at least 2, got 1"),
        ("images --seeds 0", "--seeds must be at least 1, got 0"),
        ("images --models", "--models must have at least 1 value, got ()"),
        ("images --models ViT VGG", "unknown model 'VGG'"),
        ("images --num-heads 3", "--num-heads must divide embed_dim, got num_heads=3, embed_dim=16"),
        ("demo --depth 0", "--depth must be at least 1, got 0"),
        ("demo --structure.rate 0", "--structure.rate must be above 0, got 0.0"),
        (
            "demo --structure.num-patches 4 --structure.num-sets 2",
            "--structure.dim must be at most exp(num_patches) for q = log(d) / D, got dim=128, num_patches=4",
        ),
        ("demo --structure.dim 2", "--structure.dim must be at least 3 for σ_A = log log d, got 2"),
        ("demo --structure.num-sets 7", "--structure.num-sets must divide num_patches, got num_sets=7"),
        ("shuffle --models ViT VGG", "unknown model 'VGG'; known: ConViT, ResNet, ViT, hybrid"),
        (
            "images-cifar10 --train.warmup-epochs 2",
            "--train.warmup-epochs must be below epochs = 2, got 2.0",
        ),
        ("score-init --after 5", "--after must increase and be at most --train.epochs 2, got (5,)"),
        ("score-init --starts", "--starts must have at least 1 value, got ()"),
        ("transplant --sizes 0", "--sizes must be at least 1, got 0"),
        ("transplant --target.lr 0", "--target.lr must be above 0, got 0.0"),
        ("jigsaw --tile 0", "--tile must be at least 1, got 0"),
        ("pruned-maps --keeps", "--keeps must have at least 1 value, got ()"),
        ("pruned-maps --keeps 4 4", "--keeps must not repeat a value, got (4, 4)"),
        ("pruned-maps --keeps 1 25", "--keeps must be at most N=16, got 25"),
        ("content-heads --calibration 1", "--calibration must be at least 2, got 1"),
        (
            "content-heads --train-images 1 --train.batch-size 1",
            "digits must have at least two training images, got 1",
        ),
        ("score-init --patch-size 8", "--patch-size must leave at least two patches, got 8: 1 x 1"),
        ("loading --rounds 1", "--rounds must be at least 2, got 1"),
        ("loading --sets", "--sets must not be empty without --pictures"),
    ],
)
def test_a_bad_setting_is_refused(
    command: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, *options = command.split()
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", recipe, "--smoke", *options, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_source_of_wide_pictures_is_refused_before_it_is_trained_on(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (12, 8)).save(tmp_path / place / "0.png")
    config = replace(transplant(smoke=True), data=MemoryDataConfig(str(tmp_path)))
    with pytest.raises(ValueError, match="must have square images, as targets do, got 8 x 12"):
        available_sizes(config, "digits")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--sizes 500", "--sizes: digits has 139 images in its smallest class, got (500,)"),
        (
            "--target.warmup-epochs 5",  # 5 steps, of one batch per epoch
            "--target.warmup-epochs must be below the 5 epochs on 2 images per class of digits, got 5.0",
        ),
        (
            "--train.batch-size 63 --train.accumulation 3",
            "processes x --train.accumulation must divide the batches of 20 on 2 images per class of digits "
            "(--target.batch-size), got 3",
        ),
    ],
)
def test_what_does_not_fit_a_target_is_refused_before_training(
    options: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "run",
        "transplant",
        "--smoke",
        *options.split(),
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))

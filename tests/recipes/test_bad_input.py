"""What a user gets wrong in a recipe's settings is said in one line, before or instead of a traceback."""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from posattn import cli


def fails(out: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "demo", "--smoke", "--jobs", "1", "--out", str(out), *arguments])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    *before, line = said.splitlines()
    assert all(one.startswith("posattn: precision") for one in before), said
    return line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--models", "vit_posattn_huge"],
            "unknown model 'vit_posattn_huge'; known: .*positional ViT",
        ),
        (["--data", "digitz"], "digitz.*known: .*digits"),
        (["--data", "cifar10", "--data-dir", "/nonexistent"], "cifar10.*/nonexistent"),
        (
            ["--patch-size", "3"],
            "--patch-size must divide image height, got patch_size=3, image height=8",
        ),
        (
            ["--train.batch-size", "2000"],
            "--train.batch-size must be at most 1437, the training images, got 2000",
        ),
        (["--num-heads", "5"], "--num-heads must divide embed_dim, got num_heads=5"),
        (["--train.lr", "-1"], "lr.*-1"),
        (
            ["--structure.num-sets", "7"],
            "--structure.num-sets must divide num_patches, got num_sets=7, num_patches=64",
        ),
        (["--structure.steps", "0"], "steps must be at least 1, got 0"),
        (["--transfer.noise-rate", "1.5"], "--transfer.noise-rate must be at most 1, got 1.5"),
    ],
)
def test_a_bad_setting_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(expected, fails(tmp_path / "run", arguments, capsys))


def test_a_corrupt_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and then nothing")
    said = fails(tmp_path / "run", ["--data", "cifar10", "--data-dir", str(tmp_path)], capsys)
    assert "train.parquet is not a whole parquet file" in said


def test_a_divergence_names_the_step_and_keeps_the_last_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert re.search(r"not finite at step \d+", fails(out, ["--structure.rate", "1e30"], capsys))
    assert all(t.isfinite().all() for t in load_file(out / "structure-last-good.safetensors").values())


def test_a_divergence_on_images_names_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        "--train.lr",
        "1e30",
        "--train.warmup-epochs",
        "0",
        "--train.checkpoint-every",
        "1",
    ]
    out = tmp_path / "run"
    said = fails(out, settings, capsys)
    assert re.search(r"(not finite|became nan|became inf).* step \d+", said)
    kept = sorted(out.rglob("checkpoints/**/*.safetensors"))
    assert kept
    assert all(t.isfinite().all() for t in load_file(kept[-1]).values())

"""Two processes that torchrun starts train the models of one run: the numbers of one process, written once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posattn import cli

ROOT = Path(__file__).parents[2]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "posattn",
]
ACCELERATE = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "-m",
    "posattn",
]
SMOKE = ["run", "images", "--smoke", "--models", "ViT", "positional ViT", "--train.precision", "float32"]
SMOKE += ["--train-images", "256", "--speed-rounds", "2", "--seeds", "1", "--train.record-every", "1"]


def launch(launcher: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, *SMOKE, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[tuple[str, int], float]:
    lines = [line for line in events(folder) if "loss" in line]
    found = {(line["event"], line["step"]): line["loss"] for line in lines}
    assert len(found) == len(lines)  # no line twice: one rank writes
    return found


def test_two_ranks_give_the_losses_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*SMOKE, "--jobs", "1", "--out", str(tmp_path / "one")])
    done = launch(TORCHRUN, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert capsys.readouterr().out.count("report:") == done.stdout.count("report:") == 1
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 2 * 2 * 4  # models, epochs, steps
    assert two == pytest.approx(one, abs=1e-5)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    for model, accuracy in results[0]["images"]["final_accuracy"].items():
        assert results[1]["images"]["final_accuracy"][model] == pytest.approx(accuracy, abs=0.01)
    for name in ("one", "two"):
        counts = [line["name"] for line in events(tmp_path / name) if line["event"] == "unit"]
        assert sorted(counts) == ["images/ViT/0", "images/positional ViT/0", "images/speed"]
    (tmp_path / "two" / "result.json").unlink()
    resumed = launch(ACCELERATE, "--out", str(tmp_path / "two"), "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert losses(tmp_path / "two") == two  # nothing was trained again


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_world_size_that_does_not_divide_the_batch(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 says so for all, before the ranks are joined."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as stop:
        cli.main([*SMOKE, "--train.batch-size", "33", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    line = "processes x accumulation must divide batch_size, got processes x accumulation=2, batch_size=33"
    assert capsys.readouterr().err == (f"posattn: {line}\n" if rank == "0" else "")
    assert not (tmp_path / "run").exists()

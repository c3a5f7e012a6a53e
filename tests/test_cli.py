"""The command line: its few flags, its one-line errors, and what it writes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posattn import cli
from posattn.recipes import RECIPES, Recipe

FLAGS = {"out", "smoke", "resume", "overwrite", "backend", "jobs", "debug"}


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on standard error, which must be one line, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("posattn: ")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    return said


@dataclass(frozen=True)
class ToyConfig:
    steps: int = 3
    seed: int = 0


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe, in a folder ``toy_recipe``, whose job a test sets."""
    held: dict[str, Any] = {"job": lambda config, run, progress: {"title": "Toy", "summary": "", "page": []}}

    def config(smoke: bool = False) -> ToyConfig:
        """A toy."""
        return ToyConfig(steps=1 if smoke else 3)

    config.__module__ = "toy_recipe.settings"
    job = SimpleNamespace(run=lambda *arguments: held["job"](*arguments))
    monkeypatch.setitem(sys.modules, "toy_recipe.run", job)
    monkeypatch.setitem(RECIPES, "toy", Recipe("toy", config))
    return held


def test_the_flags_are_few() -> None:
    assert set(cli.Run.__dataclass_fields__) - {"settings"} == FLAGS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "demmo"], "unknown recipe 'demmo'; known: .*demo"),
        (["run"], "which recipe\\? known: .*demo"),
        (["run", "toy", "--setps", "4"], "Unrecognized options: --setps"),
        (["run", "toy", "--steps", "four"], "steps.*four"),
        (["list", "nothing"], "nothing"),
        ([], "list, run, report"),
        (["report", "/nonexistent"], "/nonexistent holds no run"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], expected: str, toy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(expected, fails(arguments, capsys))


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for what, expected in (
        ("recipes", "demo"),
        ("models", "vit_posattn_tiny_patch16_224"),
        ("data", "digits"),
    ):
        cli.main(["list", what])
        assert expected in capsys.readouterr().out


def test_run_writes_a_run_folder(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    cli.main(["run", "toy", "--out", str(out), "--smoke", "--seed", "5"])
    assert json.loads((out / "config.json").read_text())["config"] == {"steps": 1, "seed": 5}
    assert (out / "report.html").exists()
    assert str(out.resolve()) in capsys.readouterr().out
    assert "finished run" in fails(["run", "toy", "--out", str(out)], capsys)
    cli.main(["run", "toy", "--out", str(out), "--overwrite"])
    assert json.loads((out / "config.json").read_text())["config"]["steps"] == 3


def test_an_error_in_a_run_is_one_line_and_what_is_done_stays(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverges(config: ToyConfig, run: Any, progress: Any) -> None:
        run.keep("first", 1)
        raise FloatingPointError("loss nan at step 17")

    toy["job"] = diverges
    out = tmp_path / "run"
    said = fails(["run", "toy", "--out", str(out)], capsys)
    assert "loss nan at step 17" in said
    assert "--resume" in said
    assert '"first"' in (out / "metrics.jsonl").read_text()
    with pytest.raises(FloatingPointError):
        cli.main(["run", "toy", "--out", str(out), "--resume", "--debug"])


def test_an_unwritable_folder_is_one_line(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails(["run", "toy", "--out", str(tmp_path / "file" / "run")], capsys)


def posattn(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "posattn", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def without_timing(folder: Path) -> dict[str, Any]:
    """result.json less what a clock measured: the timings, and the page that quotes them."""
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in ("timing", "page")}


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert posattn("run", "demo", "--smoke", "--jobs", "1", "--out", str(whole)).wait(200) == 0
    run = posattn("run", "demo", "--smoke", "--jobs", "1", "--out", str(killed))
    journal, deadline = killed / "metrics.jsonl", time.monotonic() + 200
    while not (journal.exists() and "transfer/" in journal.read_text()):
        assert time.monotonic() < deadline
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (killed / "result.json").exists()
    assert posattn("run", "demo", "--smoke", "--jobs", "1", "--out", str(killed), "--resume").wait(200) == 0
    assert without_timing(killed) == without_timing(whole)

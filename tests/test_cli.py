"""The command line: its few flags, its one-line errors, and what it writes."""

import importlib.metadata
import json
import os
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from tyro.conf import Positional

from posattn import cli
from posattn.cli.forms import Run, Work
from posattn.recipes import COMMANDS, RECIPES, Command, Recipe
from posattn.settings import Count, Seed

COMMON = {"out", "overwrite", "debug"}
FLAGS = COMMON | {"recipe", "config", "smoke", "resume", "backend", "jobs", "scheduler"}
DRAWN = re.compile("[\u2500-\u257f]")  # box drawing


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on standard error, which must be one plain line, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("posattn: ")
    assert said.count("\n") == 1, said
    assert not DRAWN.search(said)
    assert "Traceback" not in said
    return said


@dataclass(frozen=True)
class ToyTrain:
    rate: float = 0.5
    sizes: tuple[Count, ...] = (1, 2)


@dataclass(frozen=True)
class ToyConfig:
    steps: Count = 3
    train: ToyTrain = field(default_factory=ToyTrain)
    place: Path | None = None
    mode: Literal["one", "two"] = "one"
    seed: Seed = 0


@dataclass(frozen=True)
class ToyCommandConfig:
    """A toy command."""

    model: Positional[str]
    images: str
    size: Count = 2
    seed: Seed = 0


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe and a command, in a folder ``toy_recipe``, whose job a test sets."""
    held: dict[str, Any] = {"job": lambda config, run, progress: {"title": "Toy", "summary": "", "page": []}}

    def config(smoke: bool = False) -> ToyConfig:
        """A toy.

        Claim: none
        that is worth it.
        Time: 0 s
        """
        return ToyConfig(steps=1 if smoke else 3)

    job = SimpleNamespace(run=lambda *arguments: held["job"](*arguments))
    monkeypatch.setitem(sys.modules, "toy_recipe.run", job)
    for settings in (config, ToyCommandConfig):
        monkeypatch.setattr(settings, "__module__", "toy_recipe.settings")
    monkeypatch.setitem(sys.modules, "toy_recipe.settings", sys.modules[__name__])  # for their annotations
    monkeypatch.setitem(RECIPES, "toy", Recipe("toy", config))
    command = Command("do", ToyCommandConfig, lambda settings: f"do-{settings.model}")
    monkeypatch.setitem(COMMANDS, ToyCommandConfig, command)
    return held


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


def test_the_flags_are_few() -> None:
    assert set(Work.__dataclass_fields__) - {"settings"} == COMMON
    assert set(Run.__dataclass_fields__) - {"settings"} == FLAGS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "demmo"], "unknown recipe 'demmo'; known: .*demo"),
        (["run"], "which recipe\\? known: .*demo"),
        (["run", "--jobs", "1"], "which recipe\\? known: .*demo"),
        (["run", "toy", "--setps", "4"], "^posattn: unrecognized arguments: --setps 4$"),
        (["run", "toy", "--steps", "four"], "--steps: .*'four'"),
        (["run", "toy", "--steps"], "--steps needs a value"),
        (["run", "toy", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["run", "toy", "--train.sizes", "2", "0"], "--train.sizes must be at least 1, got 0"),
        (["run", "toy", "--mode", "three"], "--mode must be one of one, two, got 'three'"),
        (["run", "toy", "--recipe", "demo"], "--recipe"),
        (["list", "nothing"], "WHAT must be one of recipes, models, data, got 'nothing'"),
        (["completion", "csh"], "SHELL must be one of bash, zsh, got 'csh'"),
        ([], "expected one of list, run, report"),
        (["--nothing"], "--nothing"),
        (["nothing"], "unknown command 'nothing'; known: .*list"),
        (["report"], "missing FOLDER"),
        (["do", "m", "--sise", "3"], "missing --images; unrecognized arguments: --sise 3"),
        (["do", "m", "--images", "x", "--size", "0"], "--size must be at least 1, got 0"),
        (["report", "/nonexistent"], "/nonexistent holds no run"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    expected: str,
    toy: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(expected, fails(arguments, capsys).strip())
    assert not list(tmp_path.iterdir())


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for what, expected in (
        ("recipes", "demo"),
        ("models", "vit_posattn_tiny_patch16_224"),
        ("data", "digits"),
    ):
        cli.main(["list", what])
        assert expected in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"posattn {importlib.metadata.version('posattn')}\n"


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([*arguments, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--version"], ["run", "images", "--help"]])
@pytest.mark.parametrize("buffering", [-1, 1])
def test_a_closed_pipe_ends_a_command_quietly(
    arguments: list[str],
    buffering: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=buffering, encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
    assert stop.value.code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_output_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert "No space left" in fails(["--version"], capsys)


@pytest.mark.parametrize("columns", ["1", "7"])
def test_help_is_shown_in_a_terminal_that_is_too_narrow(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "--help"])
    assert not stop.value.code
    assert "Rebuild the report" in capsys.readouterr().out


def test_the_help_of_a_recipe_is_its_header(toy: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    said = help_of(["run", "toy"], capsys)
    assert "\nA toy.\n- Claim: none that is worth it.\n- Time: 0 s\n" in said
    assert all(flag in said for flag in ("--train.rate", "--steps", "--smoke", "--config"))
    assert "--recipe" not in said
    said = help_of(["run"], capsys)
    assert "A toy." in said
    assert "worth it" not in said


def test_a_command_takes_the_fields_of_its_settings(
    toy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    said = help_of(["do"], capsys)
    assert "A toy command." in said
    assert all(flag in said for flag in ("MODEL", "--size", "--seed", "--out", "--overwrite"))
    assert "--resume" not in said


def test_a_command_writes_a_run_folder(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["do", "m", "--images", "x", "--size", "5"])
    assert settings_of(tmp_path / "runs/do-m") == {"model": "m", "images": "x", "size": 5, "seed": 0}
    assert (tmp_path / "runs/do-m/report.html").exists()


def test_run_writes_a_run_folder(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    cli.main(["run", "toy", "--out", str(out), "--smoke", "--seed", "5"])
    assert settings_of(out)["steps"] == 1
    assert settings_of(out)["seed"] == 5
    assert (out / "report.html").exists()
    assert str(out.resolve()) in capsys.readouterr().out
    assert "finished run" in fails(["run", "toy", "--out", str(out)], capsys)
    cli.main(["run", "toy", "--out", str(out), "--overwrite"])
    assert settings_of(out)["steps"] == 3


def test_a_run_is_repeated_from_its_config_and_flags_override_it(toy: dict[str, Any], tmp_path: Path) -> None:
    first, again, other = (str(tmp_path / name) for name in ("first", "again", "other"))
    changed = ["--train.sizes", "7", "9", "--place", "some/where", "--seed", "3", "--mode", "two"]
    cli.main(["run", "toy", "--smoke", "--out", first, *changed])
    cli.main(["run", "--config", f"{first}/config.json", "--out", again])
    assert settings_of(tmp_path / "again") == settings_of(tmp_path / "first")
    cli.main(["run", "toy", f"--config={again}/config.json", "--out", other, "--train.rate", "0.25"])
    expected = settings_of(tmp_path / "first")
    expected["train"]["rate"] = 0.25
    assert settings_of(tmp_path / "other") == expected


def test_yaml_may_say_only_what_differs(toy: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text("recipe: toy\nconfig:\n  train: {rate: 1e-3}\n  place: here\n")
    cli.main(["run", "--config", str(file), "--out", str(tmp_path / "run")])
    assert settings_of(tmp_path / "run") == {
        "steps": 3,
        "train": {"rate": 0.001, "sizes": [1, 2]},
        "place": "here",
        "mode": "one",
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("recipe: toy\nconfig: {setps: 4}", "unknown setting 'setps'; known here: steps, train"),
        (
            "recipe: toy\nconfig: {train: {raet: 4}}",
            r"unknown setting 'train\.raet'; known here: rate, sizes",
        ),
        ("recipe: toy\nconfig: {train: 4}", "train must be a mapping of settings, got 4"),
        ("recipe: toy\nconfig: {steps: four}", "steps"),
        ("recipe: toy\nconfig: {steps: 1.5}", "steps"),
        ("recipe: toy\nconfig: {train: {sizes: [1, x]}}", r"train\.sizes\[1\]"),
        ("recipe: toy\nconfig: {mode: three}", "three.*mode"),
        ("recipe: toy\nconfig: {steps: 0}", "--steps must be at least 1, got 0"),
        ("recipe: tony", "unknown recipe 'tony'"),
        ("config: {}", "names no recipe"),
        ("[", "not YAML"),
        ("", "names no recipe"),
    ],
)
def test_a_bad_config_file_is_one_line(
    content: str, expected: str, toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "toy.yaml", tmp_path / "run"
    file.write_text(content)
    assert re.search(expected, fails(["run", "--config", str(file), "--out", str(out)], capsys))
    assert not out.exists()


def test_what_a_config_file_cannot_be_combined_with(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, broken = tmp_path / "toy.yaml", tmp_path / "config.json"
    file.write_text("recipe: toy")
    broken.write_text('{"recipe": "toy"')
    assert "recipe toy, not of demo" in fails(["run", "demo", "--config", str(file)], capsys)
    assert "recipe toy, not of speed" in fails(["bench", "--config", str(file)], capsys)
    assert "--smoke and --config" in fails(["run", "toy", "--smoke", "--config", str(file)], capsys)
    assert "no.json" in fails(["run", "--config", str(tmp_path / "no.json")], capsys)
    assert "config.json: not JSON" in fails(["run", "--config", str(broken)], capsys)


def test_text_in_square_brackets_is_printed_as_it_is(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"kind": "table", "title": "", "caption": "", "columns": ["[red]a"], "rows": [["[/b] in [0, 1]"]]}
    section = {"title": "On [0, 1]", "claim": "grey [bold] and [/]", "items": [table]}
    toy["job"] = lambda config, run, progress: {"title": "[x]", "summary": "", "page": [section]}
    cli.main(["run", "toy", "--out", str(tmp_path / "[b]")])
    printed = capsys.readouterr().out
    for text in ("On [0, 1].", "grey [bold] and [/]", "[red]a", "[/b] in [0, 1]", "/[b]/report.html"):
        assert text in printed


def test_a_table_that_is_wider_than_the_terminal_loses_no_digits(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, row = ([f"{word}{number}" for number in range(24)] for word in ("column", "0.1234"))
    table = {"kind": "table", "title": "", "caption": "", "columns": columns, "rows": [row]}
    section = {"title": "Wide", "claim": "", "items": [table]}
    toy["job"] = lambda config, run, progress: {"title": "", "summary": "", "page": [section]}
    monkeypatch.setenv("COLUMNS", "60")
    cli.main(["run", "toy", "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert [text for text in (*columns, *row) if text not in printed] == []


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


def test_a_warning_of_this_package_is_one_line(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of others it is Python's, with the place in the code."""

    def warned(config: ToyConfig, run: Any, progress: Any) -> dict[str, Any]:
        warnings.warn_explicit(f"a file is\ndamaged: {chr(7)}", UserWarning, cli.__file__, 7)
        warnings.warn_explicit("not ours", UserWarning, "/elsewhere/library.py", 7)
        return {"title": "Toy", "summary": "", "page": []}

    def show(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        """As outside pytest."""
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)

    monkeypatch.setattr(warnings, "showwarning", show)
    toy["job"], plain = warned, warnings.formatwarning
    cli.main(["run", "toy", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert said == "posattn: a file is damaged: \\x07\n/elsewhere/library.py:7: UserWarning: not ours\n"
    assert warnings.formatwarning is plain


def test_an_unwritable_folder_is_one_line(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails(["run", "toy", "--out", str(tmp_path / "file" / "run")], capsys)

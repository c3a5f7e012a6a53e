"""The README's commands and code blocks run, and the commands it names exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from posattn import cli
from posattn.recipes.demo import run as demo

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
PYTHON = [body for language, body in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, body in BLOCKS
    if language == "bash"
    for line in body.splitlines()
]


def test_there_is_something_to_run() -> None:
    assert len(PYTHON) == 3
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert {command[0] for command in COMMANDS} == {"make", "posattn"}


@pytest.mark.parametrize("body", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run_and_print_what_they_say(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(body, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    for promised in re.findall(r"# (top_c=[01]\.0)", body):
        assert promised in printed


def test_posattn_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a job that does nothing in place of the demo's, which tests/recipes/test_demo.py runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run", lambda *arguments: {"title": "Demo", "summary": "", "page": []})
    for command in (command for command in COMMANDS if command[0] == "posattn"):
        if "--help" in command:
            with pytest.raises(SystemExit, match=r"^0$"):
                cli.main(command[1:])
        else:
            cli.main(command[1:])
    assert (tmp_path / "runs/demo-smoke/report.html").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets_do_what_the_readme_says() -> None:
    for target, expected in (("demo", "posattn run demo"), ("test", "pytest"), ("lint", "mypy")):
        planned = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert expected in planned

"""The README's commands and code blocks run, and the commands it names exist."""

import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
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
    assert {command[0] for command in COMMANDS} == {"make", "pip", "posattn"}


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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_pictures_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert not [link for link in links if not link.startswith("https:") and not (ROOT / link).exists()]


def test_modules_of_the_changelog_exist() -> None:
    """Each new place of a module that moved."""
    moved = (ROOT / "CHANGELOG.md").read_text().partition("### Modules that moved")[2]
    names = re.findall(r"`((?:structure|theory|vision|bench|runs)\.[a-z_.]*[a-z])`", moved)
    assert len(names) > 20
    assert all(find_spec(f"posattn.{name}") for name in names)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets_do_what_the_readme_says() -> None:
    for target, expected in (("demo", "posattn run demo"), ("test", "pytest"), ("lint", "mypy")):
        planned = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert expected in planned

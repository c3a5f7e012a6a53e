"""What a command imports: nothing heavy before it is used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from posattn.recipes.demo.settings import DemoConfig
from posattn.runs.folder import open_run
from posattn.runs.page import Lines, Section, Table, to_plain

DRAWING = {"numpy", "matplotlib", "PIL"}
HEAVY = {
    *DRAWING,
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "scipy",
    "sklearn",
    "pandas",
    "pyarrow",
    "joblib",
}
PROBE = """
import json, sys
import posattn
sys.argv = ["posattn", *sys.argv[1:]]
if len(sys.argv) > 1:
    from posattn.cli import main
    try:
        main()
    except SystemExit:
        pass
print()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def started(code: str, *arguments: str) -> str:
    """What a new process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def loaded(*arguments: str) -> set[str]:
    """Of the heavy packages, those that a process has loaded after a command; without one after importing posattn."""
    return HEAVY & set(json.loads(started(PROBE, *arguments).splitlines()[-1]))


@pytest.mark.parametrize(
    "command",
    [
        "",
        "--help",
        "--version",
        "list",
        "list data",
        "run --help",
        "run demo --help",
        "run images-cifar10 --smoke --help",
        "inspect --help",
        "bench --help",
        "completion zsh",
        "nothing",
        "run nothing",
        "run demo --seed four",
        "run demo --nothing",
        "report nothing",
    ],
)
def test_nothing_heavy_is_loaded_where_nothing_is_computed(command: str) -> None:
    assert loaded(*command.split()) == set()


def test_a_report_is_drawn_without_torch(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", "toy", DemoConfig())
    items = [Lines("Loss", "x", {"loss": "y"}), Table("Numbers", ["a"], [["1"]])]
    page = to_plain([Section("Title", "claim", items)])
    folder.finish({"title": "Toy", "summary": "", "page": page, "x": [1, 2], "y": [2, 1]})
    assert loaded("report", str(folder.path)) <= DRAWING
    assert "<svg" in (folder.path / "report.html").read_text()


def test_models_are_registered_when_timm_comes_later_and_the_probe_sees_it() -> None:
    *models, modules = started(PROBE, "list", "models").split("\n\n")
    assert "vit_posattn_tiny_patch16_224" in models[0]
    assert {"torch", "timm"} <= set(json.loads(modules))


def test_models_are_registered_when_timm_comes_first() -> None:
    models = started("import timm, posattn; print(timm.list_models('vit_posattn_*'))")
    assert "vit_posattn_tiny_patch16_224" in models

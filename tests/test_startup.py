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
from posattn.cli import main
try:
    main()
except SystemExit:
    pass
print()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
EACH = """
import json, os, sys
import posattn

def tell(command):
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    with open(sys.argv[1], "a") as file:
        print(json.dumps([command, modules]), file=file)

tell("")
from posattn.cli import entry, main  # every command imports them: once here, then each runs in a fork
for command in sys.argv[2:]:
    if not os.fork():
        try:
            main(command.split())
        except SystemExit:
            tell(command)
        else:
            tell(command)
        finally:
            os._exit(0)
    os.wait()
"""
LIGHT = [
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
]


def started(code: str, *arguments: str) -> str:
    """What a new process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Of the heavy packages, those loaded after importing posattn (by ""), and after each command of ``LIGHT``."""
    told = tmp_path_factory.mktemp("startup") / "told"
    started(EACH, str(told), *LIGHT)
    return {command: HEAVY & set(names) for command, names in map(json.loads, told.read_text().splitlines())}


@pytest.mark.parametrize("command", ["", *LIGHT])
def test_nothing_heavy_is_loaded_where_nothing_is_computed(command: str, loaded: dict[str, set[str]]) -> None:
    assert loaded[command] == set()


def test_a_report_is_drawn_without_torch(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", "toy", DemoConfig())
    items = [Lines("Loss", "x", {"loss": "y"}), Table("Numbers", ["a"], [["1"]])]
    page = to_plain([Section("Title", "claim", items)])
    folder.finish({"title": "Toy", "summary": "", "page": page, "x": [1, 2], "y": [2, 1]})
    *_, modules = started(PROBE, "report", str(folder.path)).splitlines()
    assert HEAVY & set(json.loads(modules)) <= DRAWING
    assert "<svg" in (folder.path / "report.html").read_text()


def test_models_are_registered_when_timm_comes_later_and_the_probe_sees_it() -> None:
    *models, modules = started(PROBE, "list", "models").split("\n\n")
    assert "vit_posattn_tiny_patch16_224" in models[0]
    assert {"torch", "timm"} <= set(json.loads(modules))


def test_models_are_registered_when_timm_comes_first() -> None:
    models = started("import timm, posattn; print(timm.list_models('vit_posattn_*'))")
    assert "vit_posattn_tiny_patch16_224" in models

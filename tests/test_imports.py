"""The order of the package: imports go one way, and the two wings never import one another."""

import ast
from pathlib import Path

import pytest

import posattn

PACKAGE = Path(posattn.__file__).parent
LEAVES = {"shapes", "checks", "settings"}
FLOORS = [LEAVES, {"structure", "runs"}, {"theory", "vision"}, {"bench"}, {"recipes"}, {"cli"}]
WITHIN = {  # what a room of vision may import of vision; training never imports measurement
    "grid": set(),
    "modes": set(),
    "data": {"data"},
    "models": {"models", "grid"},
    "training": {"training", "data", "models", "grid", "modes"},
    "inspect": {"inspect", "data", "models", "grid", "modes"},
    "convert": {"convert", "inspect", "training", "data", "models", "grid", "modes"},
    "jigsaw": {"jigsaw", "inspect", "grid"},
}


def imported(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, as parts after ``posattn``."""
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {tuple(name.split(".")[1:]) for name in names if name.startswith("posattn.")}


def place(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def allowed(room: str) -> set[str]:
    """The rooms of lower floors, and the room itself."""
    below = set().union(*FLOORS[: floor(room)])
    return (LEAVES if room in LEAVES else below) | {room}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if place(path)[0] not in {"__init__", "__main__"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    rooms = {name[0] for name in imported(path) if name[0] != "__version__"}
    assert rooms <= allowed(place(path)[0])


@pytest.mark.parametrize("path", [p for p in MODULES if place(p)[0] == "vision"], ids=lambda p: p.stem)
def test_the_rooms_of_vision_are_in_order(path: Path) -> None:
    room = place(path)[1]
    used = {name[1] for name in imported(path) if name[0] == "vision"}
    assert room == "__init__" or used <= WITHIN[room]


def test_a_breach_is_seen(tmp_path: Path) -> None:
    breach = tmp_path / "breach.py"
    breach.write_text("from posattn.theory.accuracy import accuracy\nimport posattn.cli\n")
    assert {name[0] for name in imported(breach)} == {"theory", "cli"}
    assert not {"theory", "cli"} & allowed("vision")

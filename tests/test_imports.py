"""The house's order: imports go one way."""

import ast
from pathlib import Path

import pytest

import posattn

PACKAGE = Path(posattn.__file__).parent
LEAVES = {"shapes", "checks", "records", "page"}
ROOMS = ["data", "models", "learning", "measure", "recipes", "cli"]  # each may import those before it
FORBIDDEN = {
    **{leaf: set(ROOMS) | {"report"} for leaf in LEAVES},
    "report": set(ROOMS),
    **{room: set(ROOMS[i + 1 :]) | {"report"} for i, room in enumerate(ROOMS)},
    "cli": set(),
}


def imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("posattn.")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in {"__init__", "__main__"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert not imported_rooms(path) & FORBIDDEN[room_of(path)]


def test_leaves_import_nothing_of_the_package_but_leaves() -> None:
    for leaf in LEAVES - {"shapes", "records"}:
        assert imported_rooms(PACKAGE / f"{leaf}.py") <= LEAVES
    for leaf in ("shapes", "records"):
        assert not imported_rooms(PACKAGE / f"{leaf}.py")


def test_the_order_is_held_against_a_breach(tmp_path: Path) -> None:
    breach = tmp_path / "breach.py"
    breach.write_text("from posattn.measure.accuracy import accuracy\nimport posattn.cli\n")
    assert imported_rooms(breach) == {"measure", "cli"}

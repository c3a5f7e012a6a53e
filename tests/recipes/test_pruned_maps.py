"""Positional maps of which only the largest entries are kept."""

import json
from pathlib import Path

import pytest

from posattn import cli


def smoke(name: str, out: Path) -> dict:
    cli.main(["run", name, "--smoke", "--jobs", "1", "--out", str(out)])
    return json.loads((out / "result.json").read_text())


def test_pruned_maps(tmp_path: Path) -> None:
    pruned = smoke("pruned-maps", tmp_path / "run")["pruned"]
    assert pruned["keep"][-1] == 16  # all patches of the smoke setting
    assert pruned["mean"]["accuracy"][-1] == pytest.approx(pruned["mean"]["whole"][-1])
    for mass in pruned["mean"]["mass"].values():
        assert mass == sorted(mass)
        assert mass[-1] == pytest.approx(1.0)


def test_too_many_entries_to_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(
            ["run", "pruned-maps", "--smoke", "--jobs", "1", "--keeps", "17", "--out", str(tmp_path / "run")]
        )
    assert "at most N=16, got 17" in capsys.readouterr().err

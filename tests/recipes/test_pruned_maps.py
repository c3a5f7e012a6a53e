"""Positional maps of which only the largest entries are kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from posattn import cli
from posattn.recipes.pruned_maps.run import mass_section
from posattn.recipes.pruned_maps.settings import pruned_maps


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


@pytest.mark.parametrize(
    ("k", "said"), [(1, "The largest entry of a row"), (4, "The 4 largest entries of a row")]
)
def test_a_single_entry_is_said_as_one(k: int, said: str) -> None:
    config = replace(pruned_maps(smoke=True), keeps=(k,))
    assert (
        mass_section(config, {"mean": {"mass": {"layer 1": [0.5]}}}).claim
        == f"{said} held a mass of 0.50 in layer 1."
    )


def test_too_many_entries_to_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(
            ["run", "pruned-maps", "--smoke", "--jobs", "1", "--keeps", "17", "--out", str(tmp_path / "run")]
        )
    assert "at most N=16, got 17" in capsys.readouterr().err

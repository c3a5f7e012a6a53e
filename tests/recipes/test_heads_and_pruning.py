"""The recipes on trained ViTs at their smoke settings."""

import json
from pathlib import Path

import pytest

from posattn import cli


def smoke(name: str, out: Path) -> dict:
    cli.main(["run", name, "--smoke", "--jobs", "1", "--out", str(out)])
    return json.loads((out / "result.json").read_text())


def test_content_heads(tmp_path: Path) -> None:
    heads = smoke("content-heads", tmp_path / "run")["heads"]
    assert len(heads["seeds"]) == 2
    for one in heads["seeds"]:
        drops = [need["drop"] for need in one["ranked"]]
        assert drops == sorted(drops)
        assert {(need["block"], need["head"]) for need in one["ranked"]} == {
            (b, h) for b in (0, 1) for h in (0, 1)
        }
        first, last = one["accuracy"].values()
        assert len(first) == len(last) == 5
        assert first[0] == last[0] > 0.2  # it learned something
        assert first[-1] == pytest.approx(last[-1])  # all heads, in either order
    assert heads["drop"] == sorted(heads["drop"])


def test_pruned_maps(tmp_path: Path) -> None:
    pruned = smoke("pruned-maps", tmp_path / "run")["pruned"]
    assert pruned["keep"][-1] == 16  # all patches of the smoke setting
    assert pruned["accuracy"][-1] == pytest.approx(pruned["whole"][-1])
    for mass in pruned["mass"].values():
        assert mass == sorted(mass)
        assert mass[-1] == pytest.approx(1.0)


def test_too_many_entries_to_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(
            ["run", "pruned-maps", "--smoke", "--jobs", "1", "--keeps", "17", "--out", str(tmp_path / "run")]
        )
    assert "at most N=16, got 17" in capsys.readouterr().err

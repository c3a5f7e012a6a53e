"""A training that continues has every test of its past, also where the journal has lost a line."""

from pathlib import Path
from typing import Any

import pytest
from small_trainings import SHORT, few, tiny_vit
from toy_runs import resumed

from posattn.recipes.kit import classifiers
from posattn.runs.folder import CHECKPOINTS, METRICS
from posattn.vision.training.checkpoints import load_checkpoint, save_checkpoint

NEW = {"notes", "unrecorded"}  # what the checkpoints of older versions lack


def fit(folder: Path, after: list[int] | None) -> list[float]:
    resumed(folder)  # which starts it
    return classifiers.fit(tiny_vit(), few(), few(50), SHORT, 0, folder, "vit", after=after)["accuracy"]


def interrupted(folder: Path, after: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that ends in its second test."""
    whole, calls = classifiers.test, iter((False, True))

    def fails(*arguments: Any) -> float:
        if next(calls):
            raise OSError("the power is off")
        return whole(*arguments)

    monkeypatch.setattr(classifiers, "test", fails)
    with pytest.raises(OSError, match="power"):
        fit(folder, after)
    monkeypatch.setattr(classifiers, "test", whole)


def lose_the_test(folder: Path) -> None:
    lines = (folder / METRICS).read_text().splitlines(keepends=True)
    (folder / METRICS).write_text("".join(line for line in lines if '"accuracy"' not in line))


def make_older(folder: Path) -> None:
    for path in (folder / CHECKPOINTS / "vit").iterdir():
        step, tensors, meta = load_checkpoint(path)
        save_checkpoint(path.parent, step, tensors, {key: meta[key] for key in meta.keys() - NEW})


@pytest.mark.parametrize("after", [None, [1, 3], [1, 2]], ids=str)
def test_a_lost_line_costs_no_test(
    after: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(tmp_path / "whole", after)
    assert len(expected) == (3 if after is None else 2)
    interrupted(tmp_path / "run", after, monkeypatch)
    lose_the_test(tmp_path / "run")
    assert fit(tmp_path / "run", after) == expected
    lose_the_test(tmp_path / "run")
    assert fit(tmp_path / "run", after) == expected  # of a finished training


def test_checkpoints_of_older_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fit(tmp_path / "whole", None)
    interrupted(tmp_path / "run", None, monkeypatch)
    make_older(tmp_path / "run")
    journal = (tmp_path / "run" / METRICS).read_text()
    lose_the_test(tmp_path / "run")
    with pytest.raises(ValueError, match=r"lost the test of vit after epoch 1; remove .*checkpoints/vit"):
        fit(tmp_path / "run", None)
    make_older(tmp_path / "run")
    (tmp_path / "run" / METRICS).write_text(journal)
    assert fit(tmp_path / "run", None) == expected

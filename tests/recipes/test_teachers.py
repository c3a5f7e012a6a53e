"""The teachers recipe at its smoke setting."""

import json
from pathlib import Path

import pytest

from posattn import cli
from posattn.recipes.teachers.run import TEACHERS, recovery_section
from posattn.recipes.teachers.settings import TeachersConfig
from posattn.runs.folder import RunFolder


@pytest.mark.usefixtures("unchecked")
def test_teachers_at_their_smoke_setting(tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.main(["run", "teachers", "--smoke", "--jobs", "1", "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    assert set(result["teachers"]) == set(TEACHERS)
    for number, (name, found) in enumerate(result["teachers"].items()):
        assert len(found["mean"]) == len(found["std"]) == len(result["step"]), name
        assert min(found["untrained"]) > 0.6, name
        assert max(found["trained"]) < 0.35 * min(found["untrained"]), name
        assert max(found["loss_after"]) < 0.25 * min(found["loss_before"]), name
        truth, recovered = RunFolder.reading(out).load_tensors("teachers")[f"map{number}"]
        assert (recovered * (truth > 0)).sum(1).min() > 0.7, name  # attention on what the teacher reads


def test_a_distance_that_rises_is_not_said_to_fall() -> None:
    names = ("untrained", "trained", "loss_before", "loss_after")
    risen = dict(zip(names, ([0.25, 0.5], [0.5, 0.75], [1.0, 1.0], [2.0, 2.0]), strict=True))
    claim = recovery_section(TeachersConfig(seeds=2, steps=9), {"some teacher": risen}).claim
    assert "in 9 steps: from 0.375 to 0.625 (some teacher); mean over 2 seeds." in claim


def test_a_teacher_that_cannot_be_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "teachers", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--degree", "3"])
    assert "degree must be even and below num_patches = 8, got 3" in capsys.readouterr().err

"""The run folder: whole files, a journal that survives a kill, and the rules of resume and overwrite."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from posattn.runs import folder as records
from posattn.runs.folder import RunFolder, differences, open_run, write_whole


@dataclass(frozen=True)
class Config:
    steps: int = 3
    seed: int = 0


def finished(path: Path) -> RunFolder:
    run = open_run(path, "toy", Config())
    run.finish({"answer": 1})
    return run


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_whole(path, b"whole")

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left.*result\.json"):
        write_whole(path, b"half")
    assert path.read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_config_says_what_made_the_run(tmp_path: Path) -> None:
    config = open_run(tmp_path / "run", "toy", Config()).config
    assert config["recipe"] == "toy"
    assert config["config"] == {"steps": 3, "seed": 0}
    assert config["seed"] == 0
    assert {"git_commit", "device", "command", "started"} <= config.keys()


def test_units_are_computed_once_and_read_back(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    assert run.unit("a", lambda: {"x": (1, 0.1)}) == {"x": [1, 0.1]}
    again = open_run(tmp_path / "run", "toy", Config(), resume=True)

    def never() -> None:
        pytest.fail("a finished unit was computed again")

    assert again.unit("a", never) == {"x": [1, 0.1]}
    assert again.finished_units() == {"a"}


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    run.keep("a", 1)
    journal = run.path / records.METRICS
    journal.write_text(journal.read_text() + '{"event": "unit", "name": "b", "val')
    again = open_run(tmp_path / "run", "toy", Config(), resume=True)
    assert again.finished_units() == {"a"}
    again.keep("c", 2)
    assert [json.loads(line)["name"] for line in journal.read_text().splitlines()] == ["a", "c"]


def test_an_existing_run_is_left_alone(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    with pytest.raises(ValueError, match="finished run; --overwrite"):
        open_run(run.path, "toy", Config())
    assert run.result == {"answer": 1}
    (run.path / records.RESULT).unlink()
    with pytest.raises(ValueError, match="interrupted run; --resume"):
        open_run(run.path, "toy", Config())


def test_resume_refuses_another_setting_by_name(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    with pytest.raises(ValueError, match=r"config\.steps was 3, is 4"):
        open_run(run.path, "toy", Config(steps=4), resume=True)
    with pytest.raises(ValueError, match="recipe was 'toy', is 'other'"):
        open_run(run.path, "other", Config(), resume=True)


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.save_tensors("maps", {"a": torch.ones(2)})
    (run.path / "notes.txt").write_text("mine")
    for folder in (records.CHECKPOINTS, records.TENSORBOARD):
        (run.path / folder / "vit").mkdir(parents=True)
    open_run(run.path, "toy", Config(steps=9), overwrite=True)
    assert not (run.path / records.CHECKPOINTS).exists()
    assert not (run.path / records.TENSORBOARD).exists()
    assert sorted(file.name for file in run.path.iterdir()) == ["config.json", "notes.txt"]


def test_a_folder_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        open_run(tmp_path, "toy", Config(), overwrite=True)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_run(tmp_path / "file" / "run", "toy", Config())


def test_tensors_come_back_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    run.save_tensors("maps", {"a": torch.arange(6.0).reshape(2, 3).T})
    assert torch.equal(run.load_tensors("maps")["a"], torch.arange(6.0).reshape(2, 3).T)
    path = run.path / "maps.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"maps\.safetensors is not a whole"):
        run.load_tensors("maps")


def test_a_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.finish({"loss": float("nan")})
    assert not (run.path / records.RESULT).exists()


def test_differences_go_into_nested_settings() -> None:
    old = {"recipe": "r", "config": {"a": {"b": 1, "c": 2}, "d": 3}, "started": "then"}
    new = {"recipe": "r", "config": {"a": {"b": 1, "c": 5}, "d": 3}, "started": "now"}
    assert differences(old, new) == ["config.a.c was 2, is 5"]

"""`--overwrite`: a run is replaced when the new one is finished, whatever happens meanwhile."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import Config, contents, finished, resumed

from posattn.runs import folder as records
from posattn.runs.folder import RunFolder, open_run


def run_with_everything(path: Path) -> RunFolder:
    """A finished run with files of all kinds, and a file of somebody else in each folder."""
    with open_run(path, "toy", Config()) as run:
        run.save_tensors("maps", {"a": torch.ones(2)})
        for folder, name in (
            (records.CHECKPOINTS, "step-00000001.safetensors"),
            (records.TENSORBOARD, "events.out.tfevents.1"),
        ):
            (path / folder / "vit").mkdir(parents=True)
            (path / folder / "vit" / name).write_text("own")
        (path / "model").mkdir()
        (path / "model" / "config.json").write_text("own")
        run.record_folder("model")
        run.finish({"answer": 1})
    (path / records.REPORT).write_text("page")
    (path / "notes.txt").write_text("mine")
    (path / records.CHECKPOINTS / "mine.safetensors").write_text("mine")
    (path / "model" / "mine.txt").write_text("mine")
    return run


def save_new(run: RunFolder) -> None:
    """The files of a new run, one of the name of an old one's in a folder."""
    run.save_tensors("new", {"a": torch.ones(2)})
    (run.path / "model").mkdir()
    (run.path / "model" / "config.json").write_text("new")
    run.record_folder("model")


def check_replaced(path: Path) -> None:
    """The folder holds the new run and the user's files, and nothing of the old run."""
    assert RunFolder.reading(path).result == {"answer": 2}
    new = {"config.json", "metrics.jsonl", "new.safetensors", "result.json", "model/config.json"}
    assert (path / "model" / "config.json").read_text() == "new"
    mine = {"notes.txt", "checkpoints/mine.safetensors", "model/mine.txt"}
    assert set(contents(path)) == new | mine


def test_a_run_is_replaced_when_the_new_one_is_finished_and_not_before(tmp_path: Path) -> None:
    run_with_everything(tmp_path / "run")
    before = contents(tmp_path / "run")
    with open_run(tmp_path / "run", "toy", Config(steps=9), overwrite=True) as run:
        save_new(run)
        during = contents(tmp_path / "run")
        assert {name: during[name] for name in before} == before
        assert RunFolder.reading(tmp_path / "run").result == {"answer": 1}
        run.finish({"answer": 2})
    check_replaced(tmp_path / "run")
    assert not (tmp_path / "run" / records.TENSORBOARD).exists()
    assert not (tmp_path / "run" / records.REPLACEMENT).exists()


def test_an_interrupted_replacement_is_resumed_and_the_old_run_stays(tmp_path: Path) -> None:
    run_with_everything(tmp_path / "run")
    before = contents(tmp_path / "run")
    with open_run(tmp_path / "run", "toy", Config(steps=9), overwrite=True) as run:
        run.keep("half", 1)
    with pytest.raises(ValueError, match="finished run and an interrupted one to replace it"):
        open_run(tmp_path / "run", "toy", Config(steps=9))
    with pytest.raises(ValueError, match=r"config\.steps was 9, is 3"):
        open_run(tmp_path / "run", "toy", Config(), resume=True)
    after = contents(tmp_path / "run")
    assert {name: after[name] for name in before} == before
    with open_run(tmp_path / "run", "toy", Config(steps=9), resume=True) as run:
        assert run.finished_units() == {"half"}
        run.finish({"answer": 2})
    assert RunFolder.reading(tmp_path / "run").config["config"]["steps"] == 9


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("moment", range(14))
def test_a_kill_at_any_moment_of_the_move_loses_nothing(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_everything(tmp_path / "run")
    left, unlink, replace = [moment], Path.unlink, os.replace

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return do(*arguments, **options)

        return step

    run = open_run(tmp_path / "run", "toy", Config(steps=9), overwrite=True)
    save_new(run)
    RunFolder.finish(run, {"answer": 2})  # the end of the run, without the move
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", counted(unlink))
        patch.setattr(os, "replace", counted(replace))
        with contextlib.suppress(KilledError):
            records.take_place(tmp_path / "run")
    run.lock.release()
    resumed(tmp_path / "run", Config(steps=9))
    check_replaced(tmp_path / "run")


def test_a_run_of_another_recipe_is_not_replaced(tmp_path: Path) -> None:
    """As by `posattn inspect RUN --out RUN --overwrite`, which would remove the weights that it inspects."""
    finished(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of toy, which other does not replace"):
        open_run(tmp_path / "run", "other", Config(), overwrite=True)
    assert contents(tmp_path / "run") == before

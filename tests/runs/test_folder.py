"""The run folder: whole files, a journal that survives a kill, and the rules of resume and overwrite."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import Config, contents, finished, resumed

from posattn.runs import folder as records
from posattn.runs.folder import RunFolder, differences, open_run, write_whole


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


def test_a_disk_with_no_room_for_the_first_line_blocks_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is named, and the settings without it are no interrupted run."""

    def full(descriptor: int, line: bytes) -> int:
        return len(line) // 2

    with monkeypatch.context() as patched:
        patched.setattr("posattn.runs.files.os.write", full)
        with pytest.raises(OSError, match=r"No space left.*run/metrics\.jsonl"):
            open_run(tmp_path / "run", "toy", Config())
    assert not (tmp_path / "run").exists()
    open_run(tmp_path / "run", "toy", Config())


def test_a_command_that_cannot_be_resumed_says_how_to_go_on(tmp_path: Path) -> None:
    def half() -> None:
        with open_run(tmp_path / "half", "toy", Config(), resume=None) as run:
            run.keep("first", 1)
            raise ValueError("loss")

    with pytest.raises(ValueError, match="loss") as raised:
        half()
    assert raised.value.__notes__[0].endswith("half; --overwrite starts over)")
    with pytest.raises(ValueError, match="holds an interrupted run; --overwrite starts over"):
        open_run(tmp_path / "half", "toy", Config(), resume=None)


def test_config_says_what_made_the_run(tmp_path: Path) -> None:
    config = open_run(tmp_path / "run", "toy", Config()).config
    assert config["recipe"] == "toy"
    assert config["config"] == {"steps": 3, "seed": 0}
    assert config["seed"] == 0
    assert {"git_commit", "device", "command", "started"} <= config.keys()


def test_an_existing_run_is_left_alone(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    before = contents(run.path)
    with pytest.raises(ValueError, match="finished run; --overwrite"):
        open_run(run.path, "toy", Config())
    assert contents(run.path) == before
    (run.path / records.RESULT).unlink()
    with pytest.raises(ValueError, match="interrupted run; --resume"):
        open_run(run.path, "toy", Config())


def test_resume_refuses_another_setting_by_name(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    with pytest.raises(ValueError, match=r"config\.steps was 3, is 4"):
        open_run(run.path, "toy", Config(steps=4), resume=True)
    with pytest.raises(ValueError, match="recipe was 'toy', is 'other'"):
        open_run(run.path, "other", Config(), resume=True)


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
        run.finish({"answer": 1})
    (path / records.REPORT).write_text("page")
    (path / "notes.txt").write_text("mine")
    (path / records.CHECKPOINTS / "mine.safetensors").write_text("mine")
    return run


def test_a_run_is_replaced_when_the_new_one_is_finished_and_not_before(tmp_path: Path) -> None:
    run_with_everything(tmp_path / "run")
    before = contents(tmp_path / "run")
    with open_run(tmp_path / "run", "toy", Config(steps=9), overwrite=True) as run:
        run.save_tensors("new", {"a": torch.ones(2)})
        during = contents(tmp_path / "run")
        assert {name: during[name] for name in before} == before
        assert RunFolder.reading(tmp_path / "run").result == {"answer": 1}
        run.finish({"answer": 2})
    assert RunFolder.reading(tmp_path / "run").result == {"answer": 2}
    kept = {"notes.txt", "checkpoints/mine.safetensors"}
    assert set(contents(tmp_path / "run")) == kept | {
        "config.json",
        "metrics.jsonl",
        "new.safetensors",
        "result.json",
    }
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


@pytest.mark.parametrize("moment", range(12))
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
    run.save_tensors("new", {"a": torch.ones(2)})
    RunFolder.finish(run, {"answer": 2})  # the end of the run, without the move
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", counted(unlink))
        patch.setattr(os, "replace", counted(replace))
        with contextlib.suppress(KilledError):
            records.take_place(tmp_path / "run")
    run.lock.release()
    resumed(tmp_path / "run", Config(steps=9))
    assert RunFolder.reading(tmp_path / "run").result == {"answer": 2}
    kept = {"notes.txt", "checkpoints/mine.safetensors"}
    assert set(contents(tmp_path / "run")) == kept | {
        "config.json",
        "metrics.jsonl",
        "new.safetensors",
        "result.json",
    }


def test_a_file_of_somebody_else_is_moved_aside_and_not_replaced(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    (tmp_path / "run" / "maps.safetensors").write_text("mine")
    with open_run(tmp_path / "run", "toy", Config(), overwrite=True) as run:
        run.save_tensors("maps", {"a": torch.ones(2)})
        run.finish({})
    assert (tmp_path / "run" / "maps.safetensors.kept").read_text() == "mine"
    assert torch.equal(RunFolder(tmp_path / "run").load_tensors("maps")["a"], torch.ones(2))


def test_a_folder_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="not empty and holds no run"):
            open_run(tmp_path, "toy", Config(), **flags)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    "config", ['{"model_type": "vit", "hidden_size": 768}', "not JSON", "[]", '{"recipe": "toy"}']
)
def test_a_config_of_somebody_else_makes_no_run(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_text("weights")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="not empty and holds no run"):
            open_run(tmp_path, "toy", Config(), **flags)
    with pytest.raises(ValueError, match="holds no run"):
        RunFolder.reading(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_a_refused_setting_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--steps must be at least 1, got 0"):
        open_run(tmp_path / "new", "toy", Config(steps=0))
    assert not (tmp_path / "new").exists()
    finished(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="--steps must be at least 1, got -1"):
        open_run(tmp_path / "run", "toy", Config(steps=-1), overwrite=True)
    assert contents(tmp_path / "run") == before


def test_a_run_of_another_recipe_is_not_replaced(tmp_path: Path) -> None:
    """As by `posattn inspect RUN --out RUN --overwrite`, which would remove the weights that it inspects."""
    finished(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of toy, which other does not replace"):
        open_run(tmp_path / "run", "other", Config(), overwrite=True)
    assert contents(tmp_path / "run") == before


def test_a_run_in_which_nothing_was_done_leaves_nothing(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    before = contents(tmp_path / "run")
    for path, flags in ((tmp_path / "new" / "deep", {}), (tmp_path / "run", {"overwrite": True})):
        with (
            pytest.raises(ValueError, match="no such data") as raised,
            open_run(path, "toy", Config(), **flags),
        ):
            raise ValueError("no such data")
        assert not hasattr(raised.value, "__notes__")
    assert not (tmp_path / "new" / "deep").exists()
    assert contents(tmp_path / "run") == before

    def half() -> None:
        with open_run(tmp_path / "half", "toy", Config()) as run:
            run.keep("first", 1)
            raise ValueError("loss")

    with pytest.raises(ValueError, match="loss") as raised:
        half()
    assert "--resume continues it" in raised.value.__notes__[0]
    assert resumed(tmp_path / "half").finished_units() == {"first"}


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_in_use_is_refused_with_its_owner(flags: dict[str, bool], tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "toy", Config()) as run:
        run.keep("a", 1)
        before = contents(run.path)
        with pytest.raises(
            BlockingIOError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"
        ):
            open_run(tmp_path / "run", "toy", Config(), **flags)
        assert contents(run.path) == before
    assert resumed(tmp_path / "run").finished_units() == {"a"}


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_run(tmp_path / "file" / "run", "toy", Config())


def test_differences_go_into_nested_settings() -> None:
    old = {"recipe": "r", "config": {"a": {"b": 1, "c": 2}, "d": 3}, "started": "then"}
    new = {"recipe": "r", "config": {"a": {"b": 1, "c": 5}, "d": 3}, "started": "now"}
    assert differences(old, new) == ["config.a.c was 2, is 5"]


def test_data_that_change_between_two_starts_are_noticed(tmp_path: Path) -> None:
    def start(**digests: str) -> None:
        with open_run(tmp_path / "run", "toy", Config(), resume=True) as run:
            for name, digest in digests.items():
                run.same_data(name, digest)
            run.keep("first", 1)
            raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        start(train="ab", test="cd")
    with pytest.raises(OSError, match="killed"):
        start(train="ab", test="cd")
    with pytest.raises(ValueError, match=r"test has changed since .*run was started"):
        start(train="ab", test="ce")


def test_a_start_that_only_saw_its_data_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(OSError), open_run(tmp_path / "run", "toy", Config()) as run:
        run.same_data("train", "ab")
        raise OSError("no such model")
    assert not (tmp_path / "run").exists()


def test_a_link_in_the_place_of_the_owners_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".posattn-owner").symlink_to("../precious")
    finished(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "keep"


def test_places_that_can_hold_no_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is not a folder"):
        finished(tmp_path / "file")
    with pytest.raises(ValueError, match=r"must be UTF-8, got .*caf\\udce9"):
        finished(tmp_path / "caf\udce9")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match="run: the working directory has been deleted"):
        finished(Path("run"))

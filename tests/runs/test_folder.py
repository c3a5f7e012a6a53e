"""The run folder: whole files, a journal that survives a kill, and the rules of resume."""

import contextlib
import errno
import json
import os
import socket
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from toy_runs import Config, contents, finished, resumed

from posattn.runs import environment
from posattn.runs import folder as records
from posattn.runs.folder import CONFIG, RunFolder, differences, open_run, write_whole
from posattn.runs.report.export import made_by
from posattn.runs.report.html import build_report


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


def test_a_run_of_an_older_version_goes_on_if_newer_settings_are_as_they_were(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Group:
        kept: int = 1
        new: float = 0.5

    @dataclass(frozen=True)
    class Newer(Config):
        group: Group = field(default_factory=Group)
        more: tuple[int, ...] = (1, 2)

    @dataclass(frozen=True)
    class OldGroup:
        kept: int = 1

    @dataclass(frozen=True)
    class Older(Config):
        group: OldGroup = field(default_factory=OldGroup)

    with open_run(tmp_path / "run", "toy", Older()) as run:
        run.keep("unit", 7)
    with open_run(tmp_path / "run", "toy", Newer(), resume=True) as again:
        assert again.value("unit") == 7
    with pytest.raises(ValueError, match=r"config\.group\.new was 0\.5, is 0\.25$"):
        open_run(tmp_path / "run", "toy", Newer(group=Group(new=0.25)), resume=True)
    with pytest.raises(ValueError, match=r"config\.more was \[1, 2\], is \[3\]$"):
        open_run(tmp_path / "run", "toy", Newer(more=(3,)), resume=True)


def test_a_refused_setting_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--steps must be at least 1, got 0"):
        open_run(tmp_path / "new", "toy", Config(steps=0))
    assert not (tmp_path / "new").exists()
    finished(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="--steps must be at least 1, got -1"):
        open_run(tmp_path / "run", "toy", Config(steps=-1), overwrite=True)
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


def test_differences_go_into_nested_settings() -> None:
    old = {"recipe": "r", "config": {"a": {"b": 1, "c": 2}, "d": 3}, "started": "then"}
    new = {"recipe": "r", "config": {"a": {"b": 1, "c": 5}, "d": 3}, "started": "now"}
    assert differences(old, new) == ["config.a.c was 2, is 5"]


def test_a_run_that_goes_on_elsewhere_names_both_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed_on(device: str, torch: str = "2.14.1") -> RunFolder:
        monkeypatch.setattr(environment, "device_name", lambda: device)
        monkeypatch.setattr(environment, "_version", {"posattn": "1", "torch": torch, "timm": "1"}.get)
        return resumed(tmp_path / "run")

    resumed_on("CPU A")
    resumed_on("CPU A, torch threads: 2")
    resumed_on("CPU B, torch threads: 1")
    run = resumed_on("CPU B", torch="2.15.0")
    both = ["CPU A", "CPU B, torch threads: 1"]
    assert environment.devices(run) == both
    assert len(run.events("environment")) == 2
    assert (
        environment.devices_text(run)
        == f" Computed on 2 devices, whose seconds do not compare: {'; '.join(both)}."
    )
    with open_run(tmp_path / "run", "toy", Config(), resume=True) as run:
        run.finish({"title": "Toy", "summary": "", "page": []})
    assert environment.devices(resumed_on("CPU C")) == both  # which computed it
    page = build_report(tmp_path / "run").read_text()
    assert "<dt>device</dt><dd>CPU A; CPU B, torch threads: 1</dd>" in page
    assert "posattn 1, torch 2.14.1 and 2.15.0, timm 1" in page
    assert "CPU A; CPU B, torch threads: 1; started" in made_by(run)


@pytest.mark.parametrize("damaged", ["weights", "line", "nothing"])
def test_a_finished_run_with_a_part_computed_again_elsewhere_names_both_devices(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seconds are of two devices; a page that is made again elsewhere is not."""
    path = tmp_path / "run"
    monkeypatch.setattr(environment, "device_name", lambda: "CPU A")
    with open_run(path, "toy", Config()) as run:
        run.save("weights", b"whole")
        run.keep("training", 1.0, ["weights"])
        run.finish({"title": "Toy", "summary": "", "page": []})
    if damaged == "weights":
        (path / "weights").write_bytes(b"half")
    if damaged == "line":
        journal = path / "metrics.jsonl"
        journal.write_bytes(journal.read_bytes().replace(b'"training"', b'"trainimg"'))
    monkeypatch.setattr(environment, "device_name", lambda: "CPU B")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = resumed(path)
    assert environment.devices(run) == (["CPU A"] if damaged == "nothing" else ["CPU A", "CPU B"])


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


def test_settings_that_were_written_in_another_form_are_mended(tmp_path: Path) -> None:
    """As by an editor: --resume writes them anew, as the error recommends."""
    finished(tmp_path / "run")
    path = tmp_path / "run" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        RunFolder.reading(tmp_path / "run")
    with open_run(tmp_path / "run", "toy", Config(), resume=True):
        pass
    assert RunFolder.reading(tmp_path / "run").config["recipe"] == "toy"

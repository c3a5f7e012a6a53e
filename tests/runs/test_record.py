"""What is written into a run: units once, a journal that survives a kill, files whose damage is noticed."""

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from joblib import Parallel, delayed
from toy_runs import Config, closed, finished, resumed

from posattn.runs import folder as records
from posattn.runs.files import append_line
from posattn.runs.folder import RunFolder, open_run


def test_units_are_computed_once_and_read_back(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "toy", Config()) as run:
        assert run.unit("a", lambda: {"x": (1, 0.1)}) == {"x": [1, 0.1]}
    again = resumed(tmp_path / "run")

    def never() -> None:
        pytest.fail("a finished unit was computed again")

    assert again.unit("a", never) == {"x": [1, 0.1]}
    assert again.finished_units() == {"a"}


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    journal = closed(tmp_path / "run", a=1).path / records.METRICS
    journal.write_text(journal.read_text() + '{"event": "unit", "name": "b", "val')
    again = resumed(tmp_path / "run")
    assert again.finished_units() == {"a"}
    again.keep("c", 2)
    assert [unit["name"] for unit in RunFolder(tmp_path / "run").events("unit")] == ["a", "c"]
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_changed_digit_in_the_journal_is_noticed(tmp_path: Path) -> None:
    journal = closed(tmp_path / "run", a=17, b=18).path / records.METRICS
    journal.write_text(journal.read_text().replace('"value": 17', '"value": 77'))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl has 1 damaged line\(s\)"):
        assert resumed(tmp_path / "run").finished_units() == {"b"}


@pytest.mark.parametrize("content", [None, b"", b"{}\n"])
def test_a_lost_journal_is_noticed(content: bytes | None, tmp_path: Path) -> None:
    journal = closed(tmp_path / "run", a=17).path / records.METRICS
    journal.unlink()
    if content is not None:
        journal.write_bytes(content)
    with pytest.warns(UserWarning, match=r"metrics\.jsonl is missing or damaged: finished work is computed"):
        assert not resumed(tmp_path / "run").finished_units()


def test_a_journal_with_other_ends_of_lines_is_whole(tmp_path: Path) -> None:
    """As an editor or git of Windows leaves it."""
    journal = closed(tmp_path / "run", a=17).path / records.METRICS
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"\n", b"\r\n"))
    with warnings.catch_warnings(action="error"):
        assert resumed(tmp_path / "run").finished_units() == {"a"}
    assert journal.read_bytes() == content


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_unit_whose_file_is_damaged_is_done_again(damage: str, tmp_path: Path) -> None:
    def work(run: RunFolder, name: str) -> str:
        run.save_tensors(name, {"w": torch.ones(8)})
        return name

    with open_run(tmp_path / "run", "toy", Config()) as run:
        for name in ("a", "b"):
            run.unit(name, lambda name=name: work(run, name))
    path = tmp_path / "run" / "a.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-4])
    with pytest.raises(ValueError, match=r"a\.safetensors is (damaged|missing).*--resume computes it again"):
        RunFolder(tmp_path / "run").load_tensors("a")
    with pytest.warns(UserWarning, match=r"a\.safetensors damaged, computed again"):
        again = resumed(tmp_path / "run")
    assert again.finished_units() == {"b"}
    again.unit("a", lambda: work(again, "a"))
    assert torch.equal(RunFolder(tmp_path / "run").load_tensors("a")["w"], torch.ones(8))


@pytest.mark.parametrize("name", [records.CONFIG, records.RESULT])
def test_a_changed_bit_in_what_is_read_is_named(name: str, tmp_path: Path) -> None:
    path = finished(tmp_path / "run").path / name
    path.write_text(path.read_text().replace("toy", "tox").replace(": 1", ": 2"))
    with pytest.raises(ValueError, match=f"{re.escape(name)} is damaged"):
        RunFolder.reading(tmp_path / "run")


@pytest.mark.parametrize("name", ["../secret", "/etc/secret", "a/b", "a\\b", "..", ""])
def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    with pytest.raises(ValueError, match="is not the name of a file in the run"):
        run.checked(name)
    with pytest.raises(ValueError, match="is not the name of a file in the run"):
        run.save(name, b"")
    run.log("file", name=name, sha256="")
    assert name not in run.files()
    assert os.listdir(tmp_path) == ["run"]


def test_tensors_come_back_and_a_file_without_digest_that_is_cut_is_named(tmp_path: Path) -> None:
    run = closed(tmp_path / "run")
    run.save_tensors("maps", {"a": torch.arange(6.0).reshape(2, 3).T})
    assert torch.equal(run.load_tensors("maps")["a"], torch.arange(6.0).reshape(2, 3).T)
    path = run.path / "maps.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    (run.path / records.METRICS).unlink()
    with pytest.raises(ValueError, match=r"maps\.safetensors is not a whole"):
        run.load_tensors("maps")


def test_a_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.finish({"loss": float("nan")})
    assert not (run.path / records.RESULT).exists()


def append_many(path: Path, writer: int) -> None:
    for number in range(200):
        append_line(path, {"event": "x", "writer": writer, "number": number, "filler": "y" * 5000})


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    Parallel(n_jobs=2)(delayed(append_many)(tmp_path / records.METRICS, writer) for writer in range(2))
    lines, _ = RunFolder(tmp_path).journal.read_from()
    for writer in range(2):
        assert [line["number"] for line in lines if line["writer"] == writer] == list(range(200))


@pytest.mark.parametrize(
    "line", [{"x": 1}, {"event": "unit"}, {"event": "file", "name": 3, "sha256": "a"}, {"event": ["unit"]}]
)
def test_lines_that_posattn_does_not_write_are_dropped(line: dict[str, Any], tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    append_line(run.path / records.METRICS, line)
    assert RunFolder.reading(run.path).files().keys() == {records.CONFIG, records.RESULT}
    with open_run(run.path, "toy", Config(), resume=True) as again:
        assert again.finished_units() == set()

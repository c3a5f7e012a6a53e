"""Progress where there is no terminal: a line per minute, on standard error."""

import os
import sys

import pytest

from posattn.cli import progress
from posattn.cli.progress import shown_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_per_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as shown:
        task, other = shown.add_task("convert: a [task]", total=24), shown.add_task("without end", total=None)
        for _ in range(10):
            clock[0] += 25
            shown.advance(task)
        assert capsys.readouterr().err.splitlines() == [
            f"posattn: convert: a [task]: {count} of 24" for count in (3, 6, 9)
        ]
        clock[0] += 60
        shown.update(other, completed=5)
        shown.update(other, completed=6)
        assert capsys.readouterr().err == "posattn: without end: 5\n"
        for step in shown.track([1, 2], description="tracked"):
            clock[0] += 60 * step
        assert capsys.readouterr().err.endswith("posattn: tracked: 2 of 2\n")


def test_other_ranks_are_silent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress(shown=False) as shown:
        task = shown.add_task("a task", total=2)
        clock[0] += 100
        shown.advance(task)
    assert capsys.readouterr().err == ""


def test_a_stream_that_is_gone_ends_no_run(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1, encoding="utf-8") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        with shown_progress() as shown:
            task = shown.add_task("a task", total=3)
            for _ in range(3):
                clock[0] += 100
                shown.advance(task)
            shown.console.print("a note")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # so that it can be closed
    assert shown.tasks[task].finished

"""A run that is killed resumes to the numbers of one that is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posattn import cli
from posattn.runs.folder import RunFolder


def without_timing(folder: Path) -> dict[str, Any]:
    """result.json less the timings and the page that quotes them."""
    result = RunFolder.reading(folder).result
    return {key: value for key, value in result.items() if key not in ("timing", "page")}


def killed_once(arguments: list[str], journal: Path, reached: Callable[[str], bool]) -> None:
    """Start posattn in a process of its own and kill it when its journal has reached what is asked for."""
    command = [sys.executable, "-m", "posattn", *arguments]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **silent)
    deadline = time.monotonic() + 200
    while not (journal.exists() and reached(journal.read_text())):
        assert time.monotonic() < deadline
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ["run", "teachers", "--smoke", "--steps", "60", "--jobs", "1", "--out"]
    journal = killed / "metrics.jsonl"
    killed_once([*arguments, str(killed)], journal, lambda text: text.count('"unit"') >= 2)
    assert not (killed / "result.json").exists()
    done = journal.read_text().splitlines()
    cli.main([*arguments, str(killed), "--resume"])
    assert journal.read_text().splitlines()[:2] == done[:2]
    cli.main([*arguments, str(whole)])
    assert without_timing(killed) == without_timing(whole)

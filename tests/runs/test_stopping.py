"""Real processes: two of them at one run, and what is left of a run that is killed or told to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posattn.runs.folder import METRICS, RunFolder
from posattn.runs.stopping import SIGNALS, Stopped, stoppable

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from rich.progress import Progress
from posattn.runs import environment, folder
from posattn.runs.engines import use_engine
from posattn.runs.stopping import Stopped, stoppable
from posattn.runs.sweep import sweep

environment.device_name = lambda: "none"  # without torch this starts in a fraction of a second


@dataclass(frozen=True)
class Config:
    seed: int = 0


def keep(place, number):
    time.sleep(2)  # for a checkpoint
    (place / f"kept-{number}").touch()
    os._exit(1)


def work(place, number):
    if (place / "slow").exists() and number == 1:
        signal.signal(signal.SIGTERM, lambda *_: keep(place, number))
    (place / f"started-{number}-{os.getpid()}").touch()
    while number >= 0 and not (place / "go").exists():
        time.sleep(0.02)
    return number


if __name__ == "__main__":
    place = Path(sys.argv[1])
    flags = {flag: True for flag in sys.argv[2:]}
    try:
        with stoppable(), folder.open_run(place / "run", "toy", Config(), **flags) as run:
            run.keep("first", 1)
            with Progress(disable=True) as progress, use_engine("loky", 2):
                done = sweep("toy", {str(n): (place, n) for n in (1, 2, 3)}, work, run, progress)
            run.finish({"done": done})
    except (Stopped, OSError) as error:
        print(error, *getattr(error, "__notes__", []), file=sys.stderr)
        sys.exit(error.code if isinstance(error, Stopped) else 2)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def start(place: Path, *flags: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(place / "script.py"), str(place), *flags],
        env=environment,
        preexec_fn=answer_signals,  # tests that run in the background of a shell are started to ignore SIGINT
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def answer_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def workers(place: Path, process: subprocess.Popen[str], count: int = 2) -> list[int]:
    """The process ids of the workers, once there are ``count``."""
    deadline = time.monotonic() + 200
    while len(found := {int(path.name.split("-")[2]) for path in place.glob("started-*")}) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return sorted(found)


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True])
def test_a_signal_ends_every_process_with_one_line(number: signal.Signals, group: bool, place: Path) -> None:
    process = start(place)
    pids = workers(place, process)
    (os.killpg if group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert said.startswith(f"stopped by {number.name} (finished work is in {place / 'run'}; --resume")
    assert said.count("\n") == 1, said
    wait_until_gone(pids)


def test_a_worker_that_has_ended_leaves_the_others_time_for_their_checkpoints(place: Path) -> None:
    (place / "slow").touch()
    process = start(place)
    workers(place, process)
    process.terminate()
    process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert (place / "kept-1").exists()


def caught_by_a_library() -> None:
    with stoppable():
        with contextlib.suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        error = RuntimeError("a worker ended")
        error.add_note("(finished work is in runs)")
        raise error


def test_a_stop_that_a_library_caught_is_still_a_stop() -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM") as caught:
        caught_by_a_library()
    assert caught.value.code == 128 + signal.SIGTERM
    assert caught.value.__notes__ == ["(finished work is in runs)"]


class Stubborn:
    """An object whose end is when the signal comes: Python drops what is raised there."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def stopped_while_an_object_ends() -> None:
    with stoppable():
        Stubborn()
        time.sleep(20)


@pytest.mark.filterwarnings("error")
def test_a_stop_that_python_drops_is_raised_again() -> None:
    hook = sys.unraisablehook
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        stopped_while_an_object_ends()
    assert sys.unraisablehook is hook


def test_signals_are_answered_before_the_command_line_is_imported() -> None:
    script = (
        "import sys, posattn.cli; sys.exit(bool({'tyro', 'rich', 'torch', 'numpy'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode
        == 0
    )


def test_workers_end_with_a_killed_parent_and_its_lock_with_it(place: Path) -> None:
    process = start(place)
    pids = workers(place, process)
    process.kill()
    process.communicate()
    wait_until_gone(pids)
    (place / "go").touch()
    assert start(place, "resume").wait(200) == 0
    assert RunFolder.reading(place / "run").result == {"done": {"1": 1, "2": 2, "3": 3}}


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_of_two_processes_at_one_run_the_second_is_refused(flag: str, place: Path) -> None:
    first = start(place)
    workers(place, first)
    second = start(place, flag)
    _, said = second.communicate(timeout=200)
    assert second.returncode == 2
    assert said == f"{place / 'run'} is in use by process {first.pid} on {os.uname().nodename}\n"
    (place / "go").touch()
    assert first.wait(200) == 0
    units = RunFolder(place / "run").events("unit")
    assert sorted(unit["name"] for unit in units) == ["first", "toy/1", "toy/2", "toy/3"]
    assert (place / "run" / METRICS).read_bytes().endswith(b"\n")


def test_of_many_processes_that_start_at_once_one_runs(place: Path) -> None:
    (place / "go").touch()
    processes = [start(place) for _ in range(4)]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in processes]
    assert sorted(status for _, status in ended)[0] == 0
    units = [unit["name"] for unit in RunFolder.reading(place / "run").events("unit")]
    assert sorted(units) == ["first", "toy/1", "toy/2", "toy/3"]


def test_a_sweep_runs_without_what_windows_lacks(place: Path) -> None:
    """Its other differences are not tested: there is no Windows here."""
    lacking = (
        "import signal, sys\ndel signal.SIGHUP, signal.pthread_sigmask\nsys.modules['resource'] = None\n"
    )
    (place / "script.py").write_text(f"{lacking}import posattn.bench.inspection\n{SCRIPT}")
    (place / "go").touch()
    process = start(place)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    assert RunFolder.reading(place / "run").result["done"] == {"1": 1, "2": 2, "3": 3}

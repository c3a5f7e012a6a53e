"""Ending all processes of a run together: workers with their parent, and all of them on a signal."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# those of a terminal, which sends them to all processes; Windows has no SIGHUP
OF_TERMINALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))
SIGNALS = (*OF_TERMINALS, signal.SIGTERM)
GRACE = 30.0  # seconds for a worker to end a training step and write its checkpoint
WATCHED_EVERY = 0.5  # seconds
AGAIN_AFTER = 0.1  # seconds
_worker = False


class Stopped(SystemExit):
    """A signal told the process to stop; it exits with 128 + the signal's number, as shells expect."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.args[0]).name}"


@contextmanager
def stoppable() -> Iterator[None]:
    """Context in which SIGINT, SIGTERM and SIGHUP end the worker processes, then raise ``Stopped``.

    Workers get SIGTERM, which a training answers with a checkpoint, and ``GRACE`` seconds. A signal that the process
    was started to ignore, as by nohup, stays ignored. In threads other than the main one this does nothing.
    Python drops an exception that is raised while an object is destroyed: ``Stopped`` is then raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, told = os.getpid(), list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked child that has not set its own handlers
            return
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        told.append(number)
        end_children()
        raise Stopped(number)

    def again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, Stopped):
            dropped_before(dropped)
            return
        for each in before:
            signal.signal(each, stop)
        threading.Timer(AGAIN_AFTER, os.kill, (process, dropped.exc_value.args[0])).start()

    before, dropped_before = handle(stop), sys.unraisablehook
    sys.unraisablehook = again
    try:
        yield
    except Exception as error:
        if not told:
            raise
        # a library caught ``Stopped``, and failed later for want of its workers
        stopped = Stopped(told[0])
        for note in getattr(error, "__notes__", []):
            stopped.add_note(note)
        raise stopped from error
    finally:
        sys.unraisablehook = dropped_before
        restore(before)


def handle(handler: Any) -> dict[signal.Signals, Any]:
    """Set the handler of each signal that is not ignored; returns the previous handlers."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    before = {each: held for each, held in before.items() if held is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, handler)
    return before


def restore(before: dict[signal.Signals, Any]) -> None:
    """Undo ``handle``."""
    for each, handler in before.items():
        signal.signal(each, signal.SIG_DFL if handler is None else handler)


def end_children() -> None:
    """End the child processes: decoders at once, workers after a checkpoint."""
    children = multiprocessing.active_children()
    disown_workers()
    for child in children:
        child.kill() if child.daemon else child.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()


def disown_workers() -> None:
    """Make loky forget its workers: when one has ended, it would kill the others before their checkpoints."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    processes = getattr(getattr(loky, "_executor", None), "_processes", None)
    if processes:
        processes.clear()


@contextmanager
def hidden_from_children() -> Iterator[None]:
    """Processes started meanwhile never see SIGINT and SIGHUP, which the parent answers (not on Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_TERMINALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_worker(parent: int) -> None:
    """Initialise a worker process: it ends when its parent does."""
    global _worker
    _worker = True
    end_with(parent)


def end_worker(stopped: Stopped) -> None:
    """End a worker that was told to stop, and its children, before it takes more work. Otherwise do nothing."""
    if _worker:
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(int(stopped.code or 0))


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, however that ends (even by SIGKILL)."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED_EVERY)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

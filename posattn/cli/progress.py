"""How far a command is, on standard error: a bar on a terminal, elsewhere a line per minute."""

import sys
import time
from contextlib import suppress
from typing import IO, Any, cast

import wrapt
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from posattn.runs.page import printable

PERIOD = 60.0  # seconds between two lines


class Unfailing(wrapt.ObjectProxy):  # type: ignore[misc]
    """A stream that drops what it cannot write: a run goes on when its terminal is closed, or the reader of a pipe."""

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with suppress(OSError):
            self.__wrapped__.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError):
            self.__wrapped__.flush()


class ProgressLines(Progress):
    """A line of the task that moves, at most one per ``PERIOD``."""

    told = 0.0

    def start(self) -> None:
        """Begin the first period."""
        self.told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Move a task on."""
        super().advance(task_id, advance)
        self.tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task."""
        super().update(task_id, **changes)
        self.tell(task_id)

    def tell(self, task_id: TaskID) -> None:
        """Print the line, if it is time."""
        now = time.monotonic()
        if now - self.told < PERIOD:
            return
        self.told = now
        task = next(task for task in self.tasks if task.id == task_id)
        of = "" if task.total is None else f" of {task.total:g}"
        line = f"posattn: {printable(task.description)}: {task.completed:g}{of}"
        print(line, file=self.console.file, flush=True)


def shown_progress(shown: bool = True) -> Progress:
    """A bar with counts and time left on a terminal, lines elsewhere; nothing unless ``shown``."""
    console = Console(file=cast(IO[str], Unfailing(sys.stderr)), quiet=not shown)
    if shown and not console.is_terminal:
        return ProgressLines(console=console, disable=True)
    counts = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*counts, *times, console=console, disable=not shown)

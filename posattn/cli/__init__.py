"""The command line: its commands and flags (forms), how they are read (parsing, stored), what they do (actions)."""

import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence

from posattn.runs.page import printable
from posattn.runs.ranks import is_writer
from posattn.runs.stopping import Stopped, stoppable

FAILED = 2
LONGEST = 2000  # characters of an error
NARROWEST = 40  # columns of output: tyro wraps help for ever below its indentation


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. An error is one line on standard error and exit status 2; --debug shows the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a character of a table
        sys.stdout.reconfigure(errors="replace")
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        with stoppable():  # the imports below are stoppable too
            command, debug = parse(arguments)
            command()
    except (Stopped, Exception) as error:
        if debug:
            raise
        if is_writer() or not isinstance(error, ValueError | TypeError):  # bad input, which every rank has
            print(f"posattn: {one_line(error)}", file=sys.stderr)
        sys.exit(error.code if isinstance(error, Stopped) else FAILED)


def parse(arguments: Sequence[str]) -> tuple[Callable[[], None], bool]:
    """The command given by the arguments, and whether to show tracebacks.

    Raises ValueError naming a wrong flag and its value, SystemExit for --help.
    """
    from posattn.cli import entry

    return entry.parse(arguments)


def one_line(error: BaseException) -> str:
    """The text of an error: its message and notes, and its type if bad input cannot cause it."""
    expected = isinstance(error, ValueError | TypeError | OSError | FloatingPointError | Stopped)
    kind = "" if expected else f"{type(error).__name__} "
    said = " ".join([kind, str(error), *getattr(error, "__notes__", [])]).strip()
    line = printable(" ".join(said.splitlines()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"

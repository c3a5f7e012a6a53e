"""The command line: its commands and flags (forms), how they are read (parsing, stored), what they do (actions)."""

import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posattn.runs.page import printable
from posattn.runs.ranks import is_writer
from posattn.runs.stopping import Stopped, stoppable

FAILED = 2
UNREAD = 1  # exit status when the reader of a pipe has gone; rich has the same
LONGEST = 2000  # characters of an error
PACKAGE = Path(__file__).parents[1]
NARROWEST = 40  # columns of output: tyro wraps help for ever below its indentation


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. An error is one line on standard error and exit status 2; --debug shows the traceback.

    A reader that closes the pipe, as ``head`` does, ends the command quietly.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a character of a table
        sys.stdout.reconfigure(errors="replace")
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        with stoppable(), warnings_in_lines(), written_output():  # the imports below are stoppable too
            command, debug = parse(arguments)
            command()
    except (Stopped, Exception) as error:
        if debug:
            raise
        if is_writer() or not isinstance(error, ValueError | TypeError):  # bad input, which every rank has
            print(f"posattn: {one_line(error)}", file=sys.stderr)
        sys.exit(error.code if isinstance(error, Stopped) else FAILED)


@contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Context in which each of this package's warnings is one line, without the place in the code."""
    plain = warnings.formatwarning

    def ours(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> str:
        if issubclass(category, UserWarning) and PACKAGE in Path(filename).parents:
            return f"posattn: {printable(' '.join(str(message).split()))}\n"
        return plain(message, category, filename, *rest)

    warnings.formatwarning = ours  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = plain


@contextmanager
def written_output() -> Iterator[None]:
    """Context whose output is written at its end. Raises what ``write_out`` does."""
    try:
        yield
    except BrokenPipeError:
        write_out("\n")  # fails if the pipe is that of the output, not of a worker
        raise
    finally:
        write_out()


def write_out(text: str = "") -> None:
    """Print ``text``, and write what is printed, which Python does at exit, where failures are shown in its own words.

    Raises OSError if that fails, SystemExit if nobody reads the output any more, as after ``| head``.
    """
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # drops it
        if isinstance(error, BrokenPipeError):
            sys.exit(UNREAD)
        raise


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

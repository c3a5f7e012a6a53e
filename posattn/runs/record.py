"""A run folder holds config.json, metrics.jsonl, result.json, ``*.safetensors`` and, built from them, report.html.

Files are replaced atomically. ``metrics.jsonl`` is a journal: one event per line, appended. Each finished unit of work
is an event, so an interrupted run can resume. Each written file is an event with its SHA-256, so damage is detected and
only files of the run are removed. ``posattn.runs.folder`` creates the folder.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posattn.runs.files import digest, is_plain, plain_name, read_json, to_json, write_whole
from posattn.runs.journal import Journal
from posattn.runs.ranks import is_writer, share

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "posattn run, version 1"  # this line of config.json marks a folder as a run
CONFIG, METRICS, RESULT, REPORT = "config.json", "metrics.jsonl", "result.json", "report.html"
CHECKPOINTS = "checkpoints"  # a folder; unfinished trainings keep theirs in it
TENSORBOARD = "tensorboard"  # a folder; trainings keep TensorBoard's files in it
_recorded: ContextVar[tuple[list[str], ...]] = ContextVar("recorded", default=())


@contextmanager
def recorded_files() -> Iterator[list[str]]:
    """The names of the files that are saved into runs while it lasts, by this thread."""
    files: list[str] = []
    token = _recorded.set((*_recorded.get(), files))
    try:
        yield files
    finally:
        _recorded.reset(token)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_run(path: Path) -> bool:
    """Whether a folder is one that posattn made for a run."""
    try:
        described = read_json(path / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(described, dict) and described.get("format") == FORMAT


class RunFolder:
    """One run on disk. Created by ``open_run``, or directly to read it or to write into it from a worker process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / METRICS)
        self.computes = True
        """Whether a sweep may compute what is not finished; else that is a ValueError"""
        self.used: set[str] = set()
        """The units whose values were asked for"""
        self._done: dict[str, Any] = {}

    @classmethod
    def reading(cls, path: Path) -> "RunFolder":
        """A finished run. Raises ValueError if ``path`` holds none, or if its settings or result are damaged."""
        if not is_run(path) or not (path / RESULT).is_file():
            state = "an unfinished run" if is_run(path) else "no run"
            raise ValueError(f"{path} holds {state}; a report needs a finished one ({RESULT})")
        run = cls(path)
        for name in (CONFIG, RESULT):
            run.checked(name)
        return run

    @property
    def config(self) -> dict[str, Any]:
        """config.json: recipe, full config, seed, versions, git commit, device, command."""
        return read_json(self.path / CONFIG)

    @property
    def result(self) -> dict[str, Any]:
        """result.json: the final numbers and the page that shows them."""
        result = read_json(self.path / RESULT)
        if not isinstance(result, dict):
            raise ValueError(f"{self.path / RESULT} is no result: it holds a {type(result).__name__}")
        return result

    @property
    def finished(self) -> str | None:
        """When the run was first finished, in UTC; resuming it again only rebuilds its page."""
        ends = self.events("finished")
        return ends[0]["at"] if ends else None

    def log(self, event: str, **values: Any) -> None:
        """Append one line to metrics.jsonl. Of several ranks, rank 0 does."""
        self.journal.append(event, values)

    def _record(self, event: str, **values: Any) -> None:
        """``log``, then fsync."""
        self.journal.append(event, values, sync=True)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl for one event, oldest first."""
        return [values for values in self.journal.read() if values["event"] == event]

    def unit(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of a unit of work: read back if an earlier start finished it, else computed and recorded.

        Files saved into the run meanwhile belong to the unit: if one is damaged, the unit is computed again.
        Of several ranks, rank 0 computes it.
        """
        if name not in self._done:
            with recorded_files() as files:
                value = compute() if is_writer() else None
            self.keep(name, share(value), files)
        return self.value(name)

    def keep(self, name: str, value: Any, files: list[str] | None = None) -> None:
        """Record the unit ``name``, which wrote ``files``, as finished with ``value``."""
        self._record("unit", name=name, value=value, files=files or [])
        self._done[name] = json.loads(to_json(value))

    def data(self) -> dict[str, str]:
        """The digest of each set of data that the run was started with, by name."""
        digests: dict[str, str] = {}
        for line in self.events("data"):
            digests.setdefault(line["name"], line["sha256"])
        return digests

    def same_data(self, name: str, sha256: str) -> None:
        """Record the digest of the data ``name``. Raises ValueError if an earlier start of the run had other data."""
        earlier = self.data().get(name)
        if earlier is None:
            self._record("data", name=name, sha256=sha256)
        elif earlier != sha256 and not self.computes:
            raise ValueError(f"{name} is not what the merged runs were trained on; see --data-dir")
        elif earlier != sha256:
            raise ValueError(
                f"{name} has changed since {self.path} was started: its results would mix both; "
                "start over with --overwrite or another --out"
            )

    def precisions(self) -> dict[str, str]:
        """The precision of each finished training, float32 or bfloat16, by the name of its log lines and weights."""
        finished = {Path(file).stem for unit in self.events("unit") for file in unit["files"]}
        lines = (values for values in self.journal.read() if values["event"] in finished)
        return {line["event"]: line["precision"] for line in lines if isinstance(line.get("precision"), str)}

    def value(self, name: str) -> Any:
        """The value of a finished unit. Raises KeyError if it is not finished."""
        self.used.add(name)
        return self._done[name]

    def finished_units(self) -> set[str]:
        """The names of the units that are done."""
        return set(self._done)

    def unfinished(self, units: Iterable[str]) -> list[str]:
        """Those of the units that are not done. ValueError naming the first where the run computes none."""
        names = [name for name in units if name not in self._done]
        if names and not self.computes:
            raise ValueError(f"{names[0]!r} is finished in none of the runs")
        return names

    def files(self) -> dict[str, str]:
        """The SHA-256 of each file that was written into the run, by name."""
        return {line["name"]: line["sha256"] for line in self.events("file") if is_plain(line["name"])}

    def save(self, name: str, content: bytes) -> None:
        """Write a file of the run whole, and its SHA-256 into metrics.jsonl. ValueError where ``name`` is a path.

        Of several ranks, rank 0 does.
        """
        path = self.path / plain_name(name)
        if not is_writer():
            return
        write_whole(path, content)
        self._record("file", name=name, sha256=digest(path))
        for files in _recorded.get():
            files.append(name)

    def record_folder(self, name: str) -> None:
        """Note that the files in the folder ``name`` of the run are its own. ValueError where ``name`` is a path."""
        files = [file.name for file in (self.path / plain_name(name)).iterdir() if file.is_file()]
        self._record("folder", name=name, files=sorted(files))

    def in_folders(self) -> list[str]:
        """The files that ``record_folder`` noted, as paths in the run."""
        noted = [(line["name"], file) for line in self.events("folder") for file in line["files"]]
        return [f"{name}/{file}" for name, file in noted if is_plain(name) and is_plain(file)]

    def checked(self, name: str) -> Path:
        """The path of a file of the run. Raises ValueError if it has changed, or if ``name`` is a path."""
        path = self.path / plain_name(name)
        expected = self.files().get(name)
        if expected is not None and digest(path) != expected:
            state = "damaged: its SHA-256 is not that in metrics.jsonl" if path.is_file() else "missing"
            raise ValueError(
                f"{path} is {state}; --resume computes it again, or --overwrite where a command has no --resume"
            )
        return path

    def save_tensors(self, name: str, tensors: "dict[str, Tensor]") -> None:
        """Write ``name``.safetensors atomically."""
        from safetensors.torch import save  # which takes as long to import as torch

        self.save(f"{name}.safetensors", save({k: t.contiguous() for k, t in tensors.items()}))

    def load_tensors(self, name: str) -> "dict[str, Tensor]":
        """Read ``name``.safetensors. Raises ValueError naming a damaged file."""
        from safetensors.torch import load_file

        return self._load(name, load_file)

    def load_arrays(self, name: str) -> dict[str, Any]:
        """Read ``name``.safetensors as NumPy arrays, without torch. Raises ValueError naming a damaged file."""
        from safetensors.numpy import load_file

        return self._load(name, load_file)

    def _load(self, name: str, load_file: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        from safetensors import SafetensorError

        path = self.checked(f"{name}.safetensors")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, which marks the run as finished."""
        content = (json.dumps(result, indent=1, allow_nan=False) + "\n").encode()
        self._record("finished", at=now())
        self.save(RESULT, content)

    def recover(self) -> bool:
        """Read the finished units back, drop damaged lines, and forget units whose files are damaged or missing.

        Returns whether nothing was damaged or missing, but for files of no unit.
        """
        whole = self.journal.mend()
        damaged = {name for name, sha256 in self.files().items() if digest(self.path / name) != sha256}
        for unit in self.events("unit"):
            if lost := damaged & set(unit["files"]):
                self._done.pop(unit["name"], None)
                warnings.warn(f"{self.path}: {', '.join(sorted(lost))} damaged, computed again", stacklevel=2)
                whole = False
            else:
                self._done[unit["name"]] = unit["value"]
        return whole

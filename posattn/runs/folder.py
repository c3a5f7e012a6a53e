"""The run folder: config.json, metrics.jsonl, result.json, *.safetensors and, made from them, report.html.

A half-written file never replaces a whole one. ``metrics.jsonl`` is a journal: an event a line, appended; a finished
unit of work is an event too, so that an interrupted run goes on where it was.
"""

import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from posattn.runs import device

CONFIG, METRICS, RESULT, REPORT = "config.json", "metrics.jsonl", "result.json", "report.html"
CHECKPOINTS = "checkpoints"  # a folder; trainings under way keep theirs below it
TENSORBOARD = "tensorboard"  # a folder; trainings keep TensorBoard's files below it
OWN = (CONFIG, METRICS, RESULT, REPORT, "*.safetensors", ".*.part")
VERSIONED = ("posattn", "torch", "timm", "numpy", "scipy", "scikit-learn", "accelerate")


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds all of it or what it held before."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file. FileNotFoundError or ValueError naming the file."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not whole JSON: {error}") from error


def to_json(value: Any) -> str:
    """Strict JSON: a value that is not finite raises ValueError."""
    return json.dumps(value, allow_nan=False)


class RunFolder:
    """One run on disk. Made by ``open_run`` for writing, or directly for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, Any] = {}

    @classmethod
    def reading(cls, path: Path) -> "RunFolder":
        """A finished run. ValueError where ``path`` holds none."""
        if not (path / RESULT).is_file():
            state = "an unfinished run" if (path / CONFIG).is_file() else "no run"
            raise ValueError(f"{path} holds {state}; a report needs a finished one ({RESULT})")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """config.json: recipe, full config, seed, versions, git commit, device, command."""
        return read_json(self.path / CONFIG)

    @property
    def result(self) -> dict[str, Any]:
        """result.json: the final numbers and the page that shows them."""
        return read_json(self.path / RESULT)

    @property
    def finished(self) -> str | None:
        """When the run was first finished, in UTC; to resume it again only makes its page anew."""
        ends = self.events("finished")
        return ends[0]["at"] if ends else None

    def log(self, event: str, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        line = to_json({"event": event, **values}) + "\n"
        with open(self.path / METRICS, "a") as file:
            file.write(line)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of that event, oldest first."""
        return [line for line in map(json.loads, self._journal()) if line["event"] == event]

    def added(self, place: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The whole lines of metrics.jsonl from byte ``place`` on, and the place after them."""
        path, content = self.path / METRICS, b""
        if path.exists():
            with open(path, "rb") as file:
                file.seek(place)
                content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        return [json.loads(line) for line in content.splitlines()], place + len(content)

    def _journal(self) -> list[bytes]:
        """The whole lines; what a kill cut short is left out."""
        path = self.path / METRICS
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith(b"\n")]

    def unit(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of a unit of work: read back if an earlier start finished it, else computed and kept."""
        if name not in self._done:
            self.keep(name, compute())
        return self.value(name)

    def keep(self, name: str, value: Any) -> None:
        """Record the unit ``name`` as finished with ``value``."""
        self.log("unit", name=name, value=value)
        self._done[name] = json.loads(to_json(value))

    def value(self, name: str) -> Any:
        """The value of a finished unit. KeyError where it is not finished."""
        return self._done[name]

    def finished_units(self) -> set[str]:
        """The names of the units that are done."""
        return set(self._done)

    def save_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write ``name``.safetensors whole."""
        write_whole(self.path / f"{name}.safetensors", save({k: t.contiguous() for k, t in tensors.items()}))

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """Read ``name``.safetensors. ValueError naming a file that is not whole."""
        path = self.path / f"{name}.safetensors"
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, which marks the run as finished."""
        self.log("finished", at=now())
        write_whole(self.path / RESULT, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())

    def recover(self) -> None:
        """Read the finished units back and cut a half-written last line off the journal."""
        lines = self._journal()
        write_whole(self.path / METRICS, b"".join(lines))
        self._done = {line["name"]: line["value"] for line in self.events("unit")}


def open_run(
    path: Path, recipe: str, config: Any, *, resume: bool = False, overwrite: bool = False
) -> RunFolder:
    """A run folder to write into.

    Args:
        path: the folder; made where it does not exist.
        recipe: the recipe's name.
        config: the full config, a dataclass.
        resume: go on with an interrupted run of the same config.
        overwrite: start anew where a run exists.

    Raises:
        ValueError: a run exists and neither flag allows it, or the run to resume had another config.
        OSError: the folder cannot be written.
    """
    path = path.absolute()  # worker processes may stand elsewhere
    run, described = RunFolder(path), describe(recipe, config)
    if (path / CONFIG).is_file():
        _admit(run, described, resume, overwrite)
        if resume:
            run.recover()
            return run
        for own in (file for pattern in OWN for file in path.glob(pattern)):
            own.unlink()
        for folder in (CHECKPOINTS, TENSORBOARD):
            shutil.rmtree(path / folder, ignore_errors=True)
    elif path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise ValueError(f"{path} is not empty and holds no run; choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / CONFIG, json.dumps(described, indent=1).encode())
    return run


def _admit(run: RunFolder, described: dict[str, Any], resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if not (resume or overwrite):
        finished = (run.path / RESULT).is_file()
        choice = "--overwrite replaces it" if finished else "--resume goes on, --overwrite starts anew"
        raise ValueError(f"{run.path} holds {'a finished' if finished else 'an interrupted'} run; {choice}")
    if resume and (changed := differences(run.config, described)):
        raise ValueError(f"{run.path} was started with another setting, cannot resume: {'; '.join(changed)}")


def describe(recipe: str, config: Any) -> dict[str, Any]:
    """What config.json says of a run."""
    settings = json.loads(json.dumps(asdict(config), allow_nan=False, default=str))  # a Path is its text
    return {
        "recipe": recipe,
        "config": settings,
        "seed": settings.get("seed"),
        "command": shlex.join(["posattn", *sys.argv[1:]]),
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in VERSIONED}},
        "git_commit": git_commit(),
        "device": device_name(),
        "started": now(),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings in which two descriptions of a run differ, one line each."""
    if not prefix:
        old, new = ({k: d[k] for k in ("recipe", "config")} for d in (old, new))
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key} was {a!r}, is {b!r}")
    return lines


def git_commit() -> str | None:
    """The commit of the checkout that the package runs from; None where it is installed from elsewhere."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # an installed copy may lie inside somebody else's checkout, whose commit says nothing of ours
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device_name() -> str:
    """GPU, processor, its instruction set and the threads of a run, in words."""
    return device.device_name()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

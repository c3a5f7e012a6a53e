"""Small runs on disk."""

from dataclasses import dataclass
from pathlib import Path

from posattn.runs.folder import RunFolder, open_run
from posattn.settings import Count


@dataclass(frozen=True)
class Config:
    steps: Count = 3
    seed: int = 0


def finished(path: Path) -> RunFolder:
    with open_run(path, "toy", Config()) as run:
        run.finish({"answer": 1})
    return run


def closed(path: Path, **values: int) -> RunFolder:
    """An interrupted run with a unit for each value."""
    with open_run(path, "toy", Config()) as run:
        for name, value in values.items():
            run.keep(name, value)
    return run


def resumed(path: Path, config: Config = Config()) -> RunFolder:
    with open_run(path, "toy", config, resume=True) as run:
        return run


def contents(path: Path) -> dict[str, bytes]:
    """What a folder holds, but for the files of its lock."""
    files = (file for file in path.rglob("*") if file.is_file() and ".posattn-" not in file.name)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}

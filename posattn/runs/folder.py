"""Starting, resuming and replacing runs: one process at a time, and only files written by posattn are removed.

``--overwrite`` makes the new run in the folder ``.replacement`` inside the old one, which stays until the new one is
finished. Then files of the old run go and those of the new one move up, config.json first and result.json last, so that
a kill at any moment leaves what the next start completes.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from posattn import settings
from posattn.runs.describe import describe, differences, with_newer
from posattn.runs.environment import ENVIRONMENT, note_environment
from posattn.runs.files import PART, digest, write_whole
from posattn.runs.lock import FolderLock
from posattn.runs.ranks import is_writer, share
from posattn.runs.record import CHECKPOINTS, CONFIG, METRICS, REPORT, RESULT, TENSORBOARD, RunFolder, is_run

__all__ = ["CHECKPOINTS", "CONFIG", "METRICS", "REPORT", "RESULT", "TENSORBOARD", "RunFolder", "differences"]
__all__ += ["OpenRun", "open_run", "write_whole"]

REPLACEMENT = ".replacement"
# files that libraries write for posattn
BELOW = {
    CHECKPOINTS: "step-*",
    TENSORBOARD: "events.out.tfevents.*",
}


class OpenRun(RunFolder):
    """A run locked by this process until the ``with`` block or the process ends.

    If an error leaves only the settings, they are removed, so a corrected command can use the folder.
    """

    def __init__(self, path: Path, lock: FolderLock) -> None:
        super().__init__(path)
        self.lock, self.resumable = lock, True

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, which marks the run as finished; a replacement then takes the place of the old run."""
        super().finish(result)
        if self.path.name == REPLACEMENT:
            self.path = self.path.parent
            take_place(self.path)

    def __enter__(self) -> "OpenRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and holds_only_settings(self):
            remove_run(self.path)
            self.lock.release(remove=True)
            return
        if error is not None:
            how = "--resume continues it" if self.resumable else "--overwrite starts over"
            error.add_note(f"(finished work is in {self.lock.folder}; {how})")
        self.lock.release()


def open_run(
    path: Path, recipe: str, config: Any, *, resume: bool | None = False, overwrite: bool = False
) -> OpenRun:
    """A run folder to write into.

    Args:
        path: the folder, created if it does not exist.
        recipe: the recipe's name.
        config: the full config, a dataclass.
        resume: continue an interrupted run of the same config; None where that is impossible.
        overwrite: start a new run that replaces the existing one of the same recipe when it is finished.

    Raises:
        ValueError: a setting is out of its bounds; a run exists and neither flag allows it; the run to resume had
            another config, or is of merged runs; the run to replace is of another recipe; the folder holds something
            else. Nothing is changed.
        BlockingIOError: another process writes into the folder.
        OSError: the folder cannot be written.
    """
    settings.check(config)
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    path = absolute(path)  # worker processes may have another working directory
    ours = is_run(path) or is_run(path / REPLACEMENT)
    if path.is_dir() and not ours and any(not file.name.startswith(".") for file in path.iterdir()):
        raise ValueError(f"{path} is not empty and holds no run of posattn; choose another --out")
    lock = FolderLock(path)
    try:
        run = _open(path, recipe, config, lock, resume, overwrite)
    except BaseException:
        lock.release(remove=not is_run(path))
        raise
    run.resumable = resume is not None
    return run


def absolute(path: Path) -> Path:
    """The absolute path of a folder for a run. Raises FileNotFoundError or ValueError if there can be none."""
    try:
        str(path).encode()
        return path.absolute()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: the working directory has been deleted") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of a run folder must be UTF-8, got {str(path)!r}") from error


@contextmanager
def open_shared(path: Path, recipe: str, config: Any, **how: Any) -> Iterator[RunFolder]:
    """``open_run`` for a run of several ranks: rank 0 opens the folder, the others read it and write nothing."""
    if not is_writer():
        other = RunFolder(path)
        other.path, other._done = share((path, {}))
        yield other
        return
    with open_run(path, recipe, config, **how) as run:
        share((run.path, run._done))
        yield run


def _open(
    path: Path, recipe: str, config: Any, lock: FolderLock, resume: bool | None, overwrite: bool
) -> OpenRun:
    described = describe(recipe, config)
    replacement = path / REPLACEMENT
    if (replacement / RESULT).is_file():  # a kill came between the end of the run and that of its move
        take_place(path)
    if not is_run(path):
        return _begin(path, described, lock)
    pending = is_run(replacement)
    if overwrite:
        check_replaced(path, recipe)
        remove_run(replacement)
        return _begin(replacement, described, lock)
    if not resume:
        finished = (path / RESULT).is_file()
        state = f"{'a finished' if finished else 'an interrupted'} run"
        state += " and an interrupted one to replace it" if pending else ""
        whole = finished and not pending
        continued = "" if whole or resume is None else "--resume continues it, "
        choice = f"{continued}--overwrite {'replaces it' if whole else 'starts over'}"
        raise ValueError(f"{path} holds {state}; {choice}")
    run = OpenRun(replacement if pending else path, lock)
    if "merged_from" in run.config:
        raise ValueError(
            f"{path} holds merged runs, which are not resumed; posattn merge --overwrite pools them anew"
        )
    old = run.config
    if old.get("recipe") == recipe and isinstance(old.get("config"), dict):
        old = old | {"config": with_newer(old["config"], config)}
    if changed := differences(old, described):
        raise ValueError(f"{path} was started with another setting, cannot resume: {'; '.join(changed)}")
    whole = run.recover()
    if digest(run.path / CONFIG) != run.files().get(CONFIG):  # the same settings, written in another form
        run.save(CONFIG, json.dumps(run.config, indent=1).encode())
    if not whole or not (run.path / RESULT).is_file():  # else nothing but the page is made here
        note_environment(run, described)
    return run


def check_replaced(path: Path, recipe: str) -> None:
    """Raise ValueError if a folder holds a run of another recipe: perhaps the one that the new run is to read."""
    found = RunFolder(path).config
    old = "merge" if "merged_from" in found else found.get("recipe")
    if old != recipe:
        raise ValueError(
            f"{path} holds a run of {old}, which {recipe} does not replace; choose another --out"
        )


def _begin(path: Path, described: dict[str, Any], lock: FolderLock) -> OpenRun:
    path.mkdir(parents=True, exist_ok=True)
    run = OpenRun(path, lock)
    try:
        run.save(CONFIG, json.dumps(described, indent=1).encode())
    except OSError:  # a disk may have room for the file and none for its line in the journal
        remove_run(path)
        raise
    return run


def own_files(path: Path) -> list[Path]:
    """The existing files of the run in a folder; config.json and the journal come last."""
    run = RunFolder(path)
    named = (set(run.files()) - {CONFIG}) | set(run.in_folders())
    found = [path / name for name in sorted(named | {RESULT, REPORT})]
    found += [file for folder, pattern in BELOW.items() for file in (path / folder).rglob(pattern)]
    found += path.glob(f".*{PART}")
    return [file for file in (*found, path / METRICS, path / CONFIG) if file.is_file()]


def holds_only_settings(run: RunFolder) -> bool:
    """Whether nothing was done in a run."""
    lines, _ = run.journal.read_from()
    own = {file.name for file in own_files(run.path)}
    return own <= {CONFIG, METRICS} and all(
        line["event"] in ("data", ENVIRONMENT) or line.get("name") == CONFIG for line in lines
    )


def remove_run(path: Path) -> None:
    """Remove the files of the run in a folder, and folders that are empty then."""
    noted = {path / Path(name).parent for name in RunFolder(path).in_folders()}
    for file in own_files(path):
        file.unlink(missing_ok=True)
    remove_empty(path, noted)


def remove_empty(path: Path, noted: Iterable[Path] = ()) -> None:
    """Remove the folder of a replacement and all empty ones in it; in any the empty ones of checkpoints and logs, and
    those that were noted."""
    ours = path.iterdir() if path.name == REPLACEMENT and path.is_dir() else (path / name for name in BELOW)
    tops = {*noted, *ours}
    below = [folder for top in tops for folder in top.rglob("*") if folder.is_dir()]
    folders = [*sorted(below, reverse=True), *tops]
    for folder in (*folders, path) if path.name == REPLACEMENT else folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def take_place(path: Path) -> None:
    """Put the finished replacement inside ``path`` in the place of the run there; again after a kill at any moment."""
    new = path / REPLACEMENT
    if (new / CONFIG).is_file():  # else the old run is gone already
        remove_run(path)
    moved = sorted((file for file in new.rglob("*") if file.is_file()), key=_turn)
    for file in moved:
        target = path / file.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # not written by posattn, whose files were removed
            kept = target.with_name(f"{target.name}.kept")
            while kept.exists():
                kept = kept.with_name(f"{kept.name}.kept")
            os.replace(target, kept)
        os.replace(file, target)
    remove_empty(new)


def _turn(file: Path) -> int:
    """When a file moves: config.json first, as the sign that the old run is gone, result.json last."""
    return {CONFIG: -1, RESULT: 1}.get(file.name, 0)

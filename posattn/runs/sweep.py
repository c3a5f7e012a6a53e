"""Many settings of one experiment, spread over processes or a cluster by joblib, counted, and resumable."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from rich.progress import Progress

from posattn.runs.record import RunFolder, recorded_files
from posattn.runs.stopping import Stopped, become_worker, end_worker, hidden_from_children


def sweep(
    name: str,
    settings: Mapping[str, tuple[Any, ...]],
    compute: Callable[..., Any],
    run: RunFolder,
    progress: Progress,
) -> dict[str, Any]:
    """``compute(*settings[key])`` for every key, each a unit of the run; values come back in the order of the keys.

    Where it runs is joblib's to say (``--backend`` and ``--jobs`` of the command line); ``compute`` must be a function
    of a module and a pure function of its arguments, its value JSON. Files that it writes into the run are the unit's.
    """
    units = {key: f"{name}/{key}" for key in settings}
    todo = [key for key in settings if units[key] not in run.finished_units()]
    bar = progress.add_task(name, total=len(units), completed=len(units) - len(todo))
    with hidden_from_children():
        values = Parallel(return_as="generator_unordered", **local_workers())(
            delayed(compute_unit)(compute, key, settings[key]) for key in todo
        )
    for key, value, files in values:
        run.keep(units[key], value, files)
        progress.advance(bar)
    return {key: run.value(unit) for key, unit in units.items()}


def local_workers() -> dict[str, Any]:
    """Options of ``Parallel`` for processes of this machine, which must end with this one."""
    backend, _ = get_active_backend()
    if type(backend).__name__ in ("LokyBackend", "MultiprocessingBackend"):
        return {"initializer": become_worker, "initargs": (os.getpid(),)}
    return {}


def compute_unit(
    compute: Callable[..., Any], key: str, arguments: tuple[Any, ...]
) -> tuple[str, Any, list[str]]:
    """The key, the value and the files that computing it wrote."""
    try:
        with recorded_files() as files:
            return key, compute(*arguments), files
    except Stopped as stopped:
        end_worker(stopped)
        raise

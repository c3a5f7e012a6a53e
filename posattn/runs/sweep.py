"""Many settings of one experiment, spread over processes or a cluster by joblib, counted, and resumable."""

from collections.abc import Callable, Mapping
from typing import Any

from joblib import Parallel, delayed
from rich.progress import Progress

from posattn.runs.folder import RunFolder


def sweep(
    name: str,
    settings: Mapping[str, tuple[Any, ...]],
    compute: Callable[..., Any],
    run: RunFolder,
    progress: Progress,
) -> dict[str, Any]:
    """``compute(*settings[key])`` for every key, each a unit of the run; values come back in the order of the keys.

    Where it runs is joblib's to say (``--backend`` and ``--jobs`` of the command line); ``compute`` must be a function
    of a module and a pure function of its arguments, its value JSON.
    """
    units = {key: f"{name}/{key}" for key in settings}
    todo = [key for key in settings if units[key] not in run.finished_units()]
    bar = progress.add_task(name, total=len(units), completed=len(units) - len(todo))
    values = Parallel(return_as="generator_unordered")(delayed(_keyed)(compute, k, settings[k]) for k in todo)
    for key, value in values:
        run.keep(units[key], value)
        progress.advance(bar)
    return {key: run.value(unit) for key, unit in units.items()}


def _keyed(compute: Callable[..., Any], key: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    return key, compute(*arguments)

"""Many settings of one experiment, spread over processes or a cluster, counted, and resumable."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.progress import Progress

from posattn.runs.engines import run_parts
from posattn.runs.ranks import share
from posattn.runs.record import RunFolder, recorded_files
from posattn.runs.stopping import Stopped, end_worker


def sweep(
    name: str,
    settings: Mapping[str, tuple[Any, ...]],
    compute: Callable[..., Any],
    run: RunFolder,
    progress: Progress,
    on_gpu: bool = False,
) -> dict[str, Any]:
    """``compute(*settings[key])`` for every key, each a unit of the run; values come back in the order of the keys.

    It runs on the engine in use (``--backend``, ``--jobs``, ``--scheduler``). ``compute`` is a function of a module
    and pure: its value is JSON and depends on its arguments alone. Files that it writes into the run are the unit's.
    A key of a part that has a seed of its own ends with it, as "ViT/3" or "seed=3": ``posattn merge`` reads it there.
    """
    units = {key: f"{name}/{key}" for key in settings}
    unfinished = set(run.unfinished(units.values()))
    todo = [key for key in settings if units[key] in unfinished]
    bar = progress.add_task(name, total=len(units), completed=len(units) - len(todo))
    values = run_parts(partial(compute_unit, compute), {key: settings[key] for key in todo}, on_gpu)
    for key, value, files in values:
        run.keep(units[key], share(value), files)
        progress.advance(bar)
    return {key: run.value(unit) for key, unit in units.items()}


def sweep_seeds(
    name: str,
    arms: Mapping[str, tuple[Any, ...]],
    seeds: Sequence[int],
    compute: Callable[..., Any],
    run: RunFolder,
    progress: Progress,
) -> dict[str, list[Any]]:
    """``compute(*arms[arm], seed)`` of every arm and seed, as ``sweep``: by arm, one value per seed."""
    units = {(arm, seed): f"{arm}/seed={seed}" for arm in arms for seed in seeds}
    settings = {unit: (*arms[arm], seed) for (arm, seed), unit in units.items()}
    values = sweep(name, settings, compute, run, progress)
    return {arm: [values[units[arm, seed]] for seed in seeds] for arm in arms}


def compute_unit(compute: Callable[..., Any], key: str, *arguments: Any) -> tuple[str, Any, list[str]]:
    """The key, the value and the files that computing it wrote. A FloatingPointError names the key."""
    try:
        with recorded_files() as files:
            return key, compute(*arguments), files
    except FloatingPointError as error:
        raise FloatingPointError(f"{key}: {error}") from error
    except Stopped as stopped:
        end_worker(stopped)
        raise

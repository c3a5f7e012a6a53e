"""Sweeps: same values wherever they run, in the order of the keys, each once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.progress import Progress

from posattn.runs.engines import use_engine
from posattn.runs.folder import open_run
from posattn.runs.sweep import sweep, sweep_seeds


@dataclass(frozen=True)
class Config:
    seed: int = 0


def square(number: int, calls: Path) -> list[int]:
    with open(calls, "a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise FloatingPointError(f"no root at {number}")
    return [number, number**2]


@pytest.mark.parametrize("backend", ["loky", "sequential"])
def test_values_come_back_in_order_and_once(backend: str, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    settings = {f"n={n}": (n, calls) for n in (3, 1, 2)}
    run = open_run(tmp_path / "run", "toy", Config())
    with Progress(disable=True) as progress, use_engine(backend, 2):
        done = sweep("toy", settings, square, run, progress)
    assert list(done.items()) == [("n=3", [3, 9]), ("n=1", [1, 1]), ("n=2", [2, 4])]
    run.lock.release()
    again = open_run(run.path, "toy", Config(), resume=True)
    with Progress(disable=True) as progress:
        assert sweep("toy", {**settings, "n=5": (5, calls)}, square, again, progress)["n=5"] == [5, 25]
    assert sorted(calls.read_text().split()) == ["1", "2", "3", "5"]


def test_an_error_ends_the_sweep_and_what_is_done_stays(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    settings = {f"n={n}": (n, tmp_path / "calls") for n in (1, 2, -1)}
    with (
        Progress(disable=True) as progress,
        pytest.raises(FloatingPointError, match=r"^n=-1: no root at -1$"),
    ):
        sweep("toy", settings, square, run, progress)
    run.lock.release()
    assert {"toy/n=1", "toy/n=2"} <= open_run(run.path, "toy", Config(), resume=True).finished_units()


def scaled(factor: int, seed: int) -> int:
    return factor * seed


def test_values_of_several_seeds_come_back_by_arm(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    with Progress(disable=True) as progress:
        found = sweep_seeds("toy", {"one": (1,), "ten": (10,)}, range(3, 5), scaled, run, progress)
    assert found == {"one": [3, 4], "ten": [30, 40]}
    assert run.finished_units() == {f"toy/{arm}/seed={seed}" for arm in ("one", "ten") for seed in (3, 4)}

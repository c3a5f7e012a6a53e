"""The engines of a sweep, against real local clusters of two workers."""

import os
import re
import signal
from pathlib import Path

import pytest
from joblib import cpu_count

from posattn.runs.engines import on_cores, run_parts, use_engine

CLUSTERS = {"dask": "distributed", "ray": "ray"}


def square(key: str, number: int) -> tuple[str, int, int]:
    return key, number**2, os.getpid()


def die_once(key: str, folder: str) -> str:
    """Killed at its first start, as a worker on a machine that is lost."""
    mark = Path(folder) / key
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return key


def fail(key: str, folder: str) -> None:
    with open(Path(folder) / "starts", "a") as starts:
        starts.write(f"{key}\n")
    raise ValueError(f"{key} is refused")


@pytest.mark.parametrize("backend", ["loky", "sequential"])
def test_parts_run_on_this_machine(backend: str) -> None:
    with use_engine(backend, 2):
        found = {key: value for key, value, _ in run_parts(square, {str(i): (i,) for i in range(4)})}
    assert found == {str(i): i**2 for i in range(4)}


def test_parts_that_share_a_gpu_run_one_after_the_other_unless_jobs_are_given() -> None:
    def processes(jobs: int | None, on_gpu: bool) -> set[int]:
        with use_engine("loky", jobs):
            return {process for *_, process in run_parts(square, {str(i): (i,) for i in range(4)}, on_gpu)}

    assert processes(None, on_gpu=True) == {os.getpid()}
    assert os.getpid() not in processes(2, on_gpu=True)
    assert on_cores(None) == on_cores(-1) == cpu_count()
    assert (on_cores(-2), on_cores(3), on_cores(-1000)) == (max(1, cpu_count() - 1), 3, 1)


@pytest.mark.parametrize("backend", CLUSTERS)
def test_a_cluster_runs_every_part_and_starts_lost_ones_again(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(CLUSTERS[backend], reason=f"the extra {backend} is not installed")
    with use_engine(backend, 2):
        done = list(run_parts(square, {str(i): (i,) for i in range(6)}))
        assert {key: value for key, value, _ in done} == {str(i): i**2 for i in range(6)}
        assert os.getpid() not in {process for _, _, process in done}
        assert sorted(run_parts(die_once, {"a": (str(tmp_path),), "b": (str(tmp_path),)})) == ["a", "b"]
        with pytest.raises(ValueError, match=r"^c is refused$"):
            list(run_parts(fail, {"c": (str(tmp_path),)}))
    assert (tmp_path / "starts").read_text() == "c\n"  # it would fail again


def test_a_dask_worker_with_several_threads_is_refused() -> None:
    """Parts that shared a process would draw from one generator of random numbers."""
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        use_engine("dask", scheduler=cluster.scheduler_address),
        pytest.raises(ValueError, match=r"Dask worker tcp://.* must have one thread.*--nthreads 1\); got 2"),
    ):
        list(run_parts(square, {"a": (1,)}))


@pytest.mark.parametrize(
    ("backend", "scheduler", "error", "said"),
    [
        ("spark", None, ValueError, "unknown backend 'spark'; known: dask, loky, ray, sequential"),
        ("threading", None, ValueError, "unknown backend 'threading'; known: dask, loky, ray, sequential"),
        (
            "loky",
            "host:1",
            ValueError,
            "a scheduler is for the backends dask and ray, got 'host:1' with loky",
        ),
        ("dask", "host", ValueError, "address is host:port, with a port of 1 to 65535, got 'host'"),
        ("dask", "host:²", ValueError, "address is host:port, with a port of 1 to 65535, got 'host:²'"),
        (
            "ray",
            "host:65536",
            ValueError,
            "address is host:port, with a port of 1 to 65535, got 'host:65536'",
        ),
        ("dask", "tcp://127.0.0.1:1", ConnectionError, "no scheduler answers at tcp://127.0.0.1:1"),
        ("ray", "127.0.0.1:1", ConnectionError, "no scheduler answers at 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    backend: str, scheduler: str | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)), use_engine(backend, 2, scheduler):
        pass


def test_a_backend_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(ImportError, match=r"--backend ray needs ray: pip install 'posattn\[ray\]'"),
        use_engine("ray"),
    ):
        pass

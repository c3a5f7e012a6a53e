"""Where the parts of a sweep run: processes of this machine, a Dask cluster or a Ray cluster.

An engine takes a function and keyed arguments and yields values as they finish, in any order. The submitting process
writes the results; a part whose worker is lost is started again. Parts never share a process at the same time: random
numbers, signals and CPU time belong to the process, so threads would change each other's.
"""

import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from posattn import checks
from posattn.runs.stopping import become_worker, hidden_from_children

Compute = Callable[..., Any]
Calls = Mapping[str, tuple[Any, ...]]
Engine = Callable[[Compute, Calls, bool], Iterator[Any]]

LOCAL = ("loky", "sequential")
BACKENDS = (*LOCAL, "dask", "ray")
RETRIES = 2  # starts of a part after the Ray worker that had it is lost; Dask's scheduler has its own number
PATIENCE = 10.0  # seconds to wait for a scheduler
LAST_PORT = 65535


@contextmanager
def use_engine(
    backend: str = "loky", jobs: int | None = None, scheduler: str | None = None
) -> Iterator[None]:
    """Context in which sweeps run on this engine.

    Args:
        backend: loky (processes), sequential, dask or ray.
        jobs: parts that run at once on this machine; -1: one per core, -2: one less; None: one per core, but on
            loky only one of those that share a GPU. Ignored by a given cluster.
        scheduler: the address of a Dask scheduler ("tcp://host:8786") or a Ray cluster ("host:6379",
            "ray://host:10001"); None starts a local cluster.

    Raises:
        ValueError: an unknown backend, or a scheduler for a backend of this machine.
        ImportError: the backend is not installed.
        ConnectionError: the scheduler does not answer.
    """
    checks.known("backend", backend, BACKENDS)
    if backend in LOCAL and scheduler is not None:
        raise ValueError(f"a scheduler is for the backends dask and ray, got {scheduler!r} with {backend}")
    if scheduler is not None:
        check_answers(scheduler)
    start = {"dask": dask_engine, "ray": ray_engine}.get(backend, partial(local_engine, backend))
    with start(jobs, scheduler) as engine:
        token = _engine.set(engine)
        try:
            yield
        finally:
            _engine.reset(token)


def check_answers(address: str) -> None:
    """Raise ConnectionError if nothing listens, ValueError if it is no address. Ray by itself waits for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) <= LAST_PORT):
        raise ValueError(
            f"a scheduler's address is host:port, with a port of 1 to {LAST_PORT}, got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise ConnectionError(f"no scheduler answers at {address}: {error}") from error


def run_parts(compute: Compute, calls: Calls, on_gpu: bool = False) -> Iterator[Any]:
    """``compute(key, *arguments)`` of each call, as they finish; one after the other if no engine is in use.

    ``on_gpu``: the parts share a GPU of this machine, on which each would slow the others.
    """
    return _engine.get()(compute, calls, on_gpu)


def joblib_parts(
    backend: str, jobs: int | None, compute: Compute, calls: Calls, on_gpu: bool
) -> Iterator[Any]:
    """Runs parts in processes of this machine, or in this one."""
    from joblib import Parallel, delayed  # the import takes a third of a second

    workers = {"initializer": become_worker, "initargs": (os.getpid(),)} if backend == "loky" else {}
    at_once = jobs or (1 if on_gpu else -1)
    parallel = Parallel(n_jobs=at_once, backend=backend, return_as="generator_unordered", **workers)
    with hidden_from_children():
        return parallel(delayed(compute)(key, *arguments) for key, arguments in calls.items())


@contextmanager
def local_engine(backend: str, jobs: int | None, scheduler: None) -> Iterator[Engine]:
    """joblib's processes, or the calling process."""
    yield partial(joblib_parts, backend, jobs)


@contextmanager
def dask_engine(jobs: int | None, scheduler: str | None) -> Iterator[Engine]:
    """A Dask cluster: the one at ``scheduler``, or one of this machine with a thread per worker."""
    distributed = _installed("distributed", "dask")
    local = {"n_workers": on_cores(jobs), "threads_per_worker": 1, "dashboard_address": None}
    options: dict[str, Any] = {"timeout": PATIENCE} if scheduler else local
    try:
        client = distributed.Client(scheduler, **options)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(f"no Dask scheduler at {scheduler}: {error}") from error

    def parts(compute: Compute, calls: Calls, on_gpu: bool) -> Iterator[Any]:
        futures = [
            client.submit(compute_alone, compute, key, *arguments, pure=False)
            for key, arguments in calls.items()
        ]
        try:
            for future in distributed.as_completed(futures):
                yield future.result()
        finally:
            client.cancel(futures)

    with client:
        yield parts


def compute_alone(compute: Compute, *arguments: Any) -> Any:
    """``compute(*arguments)`` in a Dask worker. Raises ValueError if it has threads for other parts beside this one."""
    worker = _installed("distributed", "dask").get_worker()
    if (threads := worker.state.nthreads) > 1:
        raise ValueError(
            f"Dask worker {worker.address} must have one thread, so that parts share no process (--nthreads 1); "
            f"got {threads}"
        )
    return compute(*arguments)


@contextmanager
def ray_engine(jobs: int | None, scheduler: str | None) -> Iterator[Engine]:
    """A Ray cluster: the one at ``scheduler``, or one of this machine."""
    ray = _installed("ray", "ray")
    local = {"num_cpus": on_cores(jobs), "include_dashboard": False}
    try:
        ray.init(address=scheduler or "local", log_to_driver=False, **({} if scheduler else local))
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(f"no Ray cluster at {scheduler or 'this machine'}: {error}") from error

    def parts(compute: Compute, calls: Calls, on_gpu: bool) -> Iterator[Any]:
        remote = ray.remote(max_retries=RETRIES)(compute)
        waiting = [remote.remote(key, *arguments) for key, arguments in calls.items()]
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting, num_returns=1)
                try:
                    value = ray.get(done)
                except ray.exceptions.RayTaskError as error:  # whose text is the traceback in the worker
                    raise error.cause from error
                yield value
        finally:
            for each in waiting:
                ray.cancel(each, force=True)

    try:
        yield parts
    finally:
        ray.shutdown()


def on_cores(jobs: int | None) -> int:
    """How many parts run at once, by the number of cores where ``jobs`` is negative or None."""
    from joblib import cpu_count

    return jobs if jobs and jobs > 0 else max(1, cpu_count() + 1 + (jobs or -1))


def _installed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"--backend {extra} needs {module}: pip install 'posattn[{extra}]'") from error


IN_TURN: Engine = partial(joblib_parts, "sequential", 1)
_engine: ContextVar[Engine] = ContextVar("engine", default=IN_TURN)

"""Integration of a stiff ODE of four numbers: trajectories, their errors, and a solver that restarts its clock."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.integrate import Radau

NAMES = ("alpha", "beta", "gamma", "rho")

State = Float[ndarray, " 4"]
Field = Callable[[State], ndarray]


@dataclass(frozen=True)
class Trajectory:
    """A solution of the flow at the solver's time steps.

    Times never decrease; they may repeat where the flow after a long plateau is faster than t can resolve. Loss and
    accuracy are those of the population, estimated on samples that the flow was not integrated on; the flow descends
    ``own_loss``.
    """

    t: Float[ndarray, " T"]  # rate times number of descent steps
    alpha: Float[ndarray, " T"]
    beta: Float[ndarray, " T"]
    gamma: Float[ndarray, " T"]
    rho: Float[ndarray, " T"]
    loss: Float[ndarray, " T"]
    accuracy: Float[ndarray, " T"]  # a logit of 0 is wrong
    loss_stderr: Float[ndarray, " T"]  # standard error of ``loss``
    own_loss: Float[ndarray, " T"]
    stopped: str = ""
    """Why the trajectory ends before ``t_end``, empty if it does not."""

    @property
    def valid_until(self) -> float:
        """The last time at which the flow's sample stood for the population; infinite where it always did."""
        return float(self.t[-1]) if self.stopped else np.inf

    @classmethod
    def of_rows(cls, rows: list[tuple[float, ...]], stopped: str = "") -> "Trajectory":
        """The trajectory of one row of numbers per time."""
        columns = np.array(rows).reshape(-1, len(fields(cls)) - 1).T
        return cls(*columns, stopped)  # type: ignore[call-arg, arg-type]


class SampleExhaustedWarning(UserWarning):
    """A trajectory ends early: the flow's sample no longer represents the population."""


class FlowDivergedError(FloatingPointError):
    """The flow met a non-finite value; ``trajectory`` holds the steps before it."""

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


class Step(NamedTuple):
    """A step that the solver accepted."""

    before: float  # the time at its start
    t: float
    state: State
    between: Callable[[float], State]  # the state at a time from ``before`` to ``t``


def solve(
    velocity: Field, jacobian: Field, start: State, moving: ndarray, t_end: float, rtol: float
) -> Iterator[Step]:
    """The steps of dx/dt = velocity(x) by Radau's method.

    Args:
        velocity: (k,) of the entries that move, given all four.
        jacobian: (k, k), its derivative in them.
        start: x at t = 0, which is the first step.
        moving: which entries move.
        t_end: the last time.
        rtol: relative tolerance of a step.

    Raises:
        FloatingPointError: a value is not finite or the solver cannot go on; names the time and the state.
    """

    def whole(reduced: Float[ndarray, " k"]) -> State:
        state = start.copy()
        state[moving] = reduced
        return state

    def finite(name: str, field: Field) -> Callable[[float, ndarray], ndarray]:
        return lambda t, reduced: check_finite(name, field(whole(reduced)), elapsed + t, whole(reduced))

    def radau(reduced: Float[ndarray, " k"], span: float) -> Radau:
        functions = finite("gradient", velocity), finite("hessian", jacobian)
        return Radau(functions[0], 0.0, reduced, span, jac=functions[1], rtol=rtol, atol=1e-3 * rtol)

    elapsed = 0.0
    yield Step(0.0, 0.0, start, lambda t: start)
    solver = radau(start[moving], t_end)
    while solver.status == "running":
        failure = solver.step()
        if failure and solver.t > 0:
            # A step fell below the spacing of t, as after a long plateau. The flow does not depend on t,
            # so its clock restarts at 0.
            elapsed = min(elapsed + solver.t, t_end)
            solver = radau(solver.y, t_end - elapsed)
        elif failure:
            raise FloatingPointError(f"{failure} {place(elapsed, whole(solver.y))}")
        else:
            dense, offset = solver.dense_output() if solver.t > 0 else None, elapsed
            between = lambda t, dense=dense, offset=offset, y=solver.y: whole(  # noqa: E731
                y if dense is None else dense(t - offset)
            )
            yield Step(elapsed + (solver.t_old or 0.0), elapsed + solver.t, whole(solver.y), between)


def check_finite(name: str, values: ndarray, t: float, state: State) -> ndarray:
    """``values``, or FloatingPointError naming the time and the state."""
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{name} of the flow not finite {place(t, state)}")
    return values


def place(t: float, state: State) -> str:
    """A time and a state as text."""
    return f"at t = {t:.6g}, " + ", ".join(f"{n} = {x:.6g}" for n, x in zip(NAMES, state, strict=True))

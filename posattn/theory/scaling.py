"""Power laws and tests of whether they hold, and the time at which a training leaves its plateau."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import f, linregress, t

from posattn import checks
from posattn.theory.flow import PopulationFlow
from posattn.theory.integration import SampleExhaustedWarning

SIGNIFICANCE = 0.01  # below this p-value a power law is rejected


class PowerLaw(NamedTuple):
    """y = prefactor · x^exponent, by least squares in the logarithms."""

    exponent: float
    low: float  # confidence interval of the exponent
    high: float
    prefactor: float
    r_squared: float
    p_value: float | None  # p-value of the lack of fit; None without scatter to compare with
    rejected: bool  # whether it is below 1%

    def __call__(self, x: float) -> float:
        """y at x."""
        return self.prefactor * x**self.exponent


def power_law(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> PowerLaw:
    """The power law through positive points, with Student's interval of the exponent, and whether it holds.

    The F test for lack of fit compares the distance of the means at each x from the line with the scatter of the
    points at one x. If the power law is rejected, the exponent and its interval are only an average over the range.

    Args:
        x: repeated values give the scatter that the line is tested against.
        y: of the same length.
        confidence: of the interval.

    Raises:
        ValueError: fewer than three points, a number not above 0, or a single x.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"a power law needs at least three points, got {len(x)} x and {len(y)} y")
    if not (np.all(np.isfinite([x, y])) and min(*x, *y) > 0):
        raise ValueError(f"a power law needs finite points above 0, got x = {list(x)}, y = {list(y)}")
    if len(set(x)) < 2:
        raise ValueError(f"a power law needs more than one x, got {x[0]} alone")
    fit = linregress(np.log(x), np.log(y))
    margin = t.ppf((1 + checks.probability("confidence", confidence)) / 2, len(x) - 2) * fit.stderr
    low, high = fit.slope - margin, fit.slope + margin
    prefactor, r_squared = float(np.exp(fit.intercept)), float(fit.rvalue**2)
    p_value = _lack_of_fit(np.log(x), np.log(y), fit.intercept + fit.slope * np.log(x))
    rejected = p_value is not None and p_value < SIGNIFICANCE
    return PowerLaw(float(fit.slope), float(low), float(high), prefactor, r_squared, p_value, rejected)


def _lack_of_fit(x: ndarray, y: ndarray, fitted: ndarray) -> float | None:
    """The p-value of the F test for lack of fit of a line; None without repeated x or with fewer than three."""
    _, group = np.unique(x, return_inverse=True)
    means = (np.bincount(group, y) / np.bincount(group))[group]
    between, within = group.max() - 1, len(x) - group.max() - 1
    scatter = float(((y - means) ** 2).sum())
    if between < 1 or within < 1 or scatter <= 1e-24 * len(x):
        return None
    return float(f.sf((((means - fitted) ** 2).sum() / between) / (scatter / within), between, within))


def plateau_loss(flow: PopulationFlow) -> float:
    """The lowest loss that v alone reaches while A stays at its start: the level of the flow's plateau."""

    def loss(log_read: float) -> float:
        with np.errstate(all="ignore"):  # not finite where it overflows
            return flow.score(np.exp(log_read) / flow.scale, 0.0, 0.0, 0.0).loss

    # the best κ α varies by orders of magnitude with D, p and ν
    coarse = np.log(10.0) * np.arange(-8.0, 9.0, 0.5)
    best = coarse[np.nanargmin([loss(x) for x in coarse])]
    return float(minimize_scalar(loss, bounds=(best - 1.2, best + 1.2), method="bounded").fun)


def transition_time(
    flow: PopulationFlow,
    *,
    alpha: float = 0.005,
    level: float = 0.75,
    t_end: float = 1e10,
    rtol: float = 1e-6,
    rate_ratio: float = 1.0,
) -> float | None:
    """The time at which the population's loss first falls below ``level`` times the plateau's; the flow stops there.

    Args:
        flow: starts at v = ``alpha`` w*, A_ij = 0.
        alpha, t_end, rtol, rate_ratio: as in ``PopulationFlow.integrate``.
        level: between 0 and 1.

    Returns:
        The time, or None if the loss does not fall so far before ``t_end``.

    Raises:
        TypeError, ValueError: an argument is out of range.
        FloatingPointError: the solver cannot go on.

    Warns:
        SampleExhaustedWarning: the flow's sample stops standing for the population before; the result is None.
    """
    below = checks.probability("level", level) * plateau_loss(flow)
    start = {"alpha": alpha, "beta": 0.0, "gamma": 0.0, "rho": 0.0}
    for step in flow.steps(**start, t_end=t_end, rtol=rtol, rate_ratio=rate_ratio):
        score = flow.score(*step.state)
        if score.loss < below and step.t > step.before:
            return float(
                brentq(lambda t, at=step: flow.score(*at.between(t)).loss - below, step.before, step.t)
            )
        if score.loss < below:
            return step.t
        if not score.trusted:
            message = (
                f"the flow's {flow.samples} samples say too little of the population at t = {step.t:.6g}"
            )
            warnings.warn(f"{message}, before its transition", SampleExhaustedWarning, stacklevel=2)
            return None
    return None


def time_below(times: ArrayLike, losses: ArrayLike, level: float) -> float | None:
    """The first time at which the loss is below ``level``, linear in between; None if it never is."""
    times, losses = np.asarray(times, float), np.asarray(losses, float)
    below = losses < level
    if not below.any():
        return None
    after = int(below.argmax())
    if after == 0:
        return float(times[0])
    share = (losses[after - 1] - level) / (losses[after - 1] - losses[after])
    return float(times[after - 1] + share * (times[after] - times[after - 1]))

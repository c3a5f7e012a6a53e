"""Power laws fitted on log-log axes, and the time at which a training leaves its plateau."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.stats import linregress, t

from posattn import checks
from posattn.theory.flow import PopulationFlow


class PowerLaw(NamedTuple):
    """y = prefactor · x^exponent, by least squares in the logarithms."""

    exponent: float
    low: float  # confidence interval of the exponent
    high: float
    prefactor: float
    r_squared: float

    def __call__(self, x: float) -> float:
        """y at x."""
        return self.prefactor * x**self.exponent


def power_law(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> PowerLaw:
    """The power law through positive points, with Student's interval of the exponent.

    The interval covers the scatter about the line; where the points bend on log-log axes, it says little of the
    slope elsewhere. ValueError for fewer than three points, a number not above 0, or a single x.
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
    figures = (fit.slope, low, high, np.exp(fit.intercept), fit.rvalue**2)
    return PowerLaw(*map(float, figures))


def plateau_loss(flow: PopulationFlow) -> float:
    """The least loss that v alone reaches while A stays at its start: the level of the flow's plateau."""

    def loss(log_read: float) -> float:
        logits = flow.logits(np.exp(log_read) / flow.scale, 0.0, 0.0, 0.0)
        return float(np.logaddexp(0.0, -logits).mean())

    return float(minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded").fun)


def time_below(times: ArrayLike, losses: ArrayLike, level: float) -> float | None:
    """The first time at which the loss is below ``level``, linear in between; None where it never is."""
    times, losses = np.asarray(times, float), np.asarray(losses, float)
    below = losses < level
    if not below.any():
        return None
    after = int(below.argmax())
    if after == 0:
        return float(times[0])
    share = (losses[after - 1] - level) / (losses[after - 1] - losses[after])
    return float(times[after - 1] + share * (times[after] - times[after - 1]))

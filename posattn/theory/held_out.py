"""Loss and accuracy of a state of the flow on the population, and how far the flow's own sample can be trusted."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

HELD_OUT = 20_000  # samples on which losses and accuracies are estimated
LEAST_PRECISION = 1 / 3  # largest trusted relative standard error of a fresh sample's loss
FARTHEST = 4.0  # largest trusted distance of the own loss from the population's, in standard errors
ROUNDING = 1e-9  # of losses, relative


class Score(NamedTuple):
    """Loss and accuracy of a state on the population, and whether the flow's own sample is still representative."""

    loss: float
    accuracy: float
    loss_stderr: float
    own_loss: float
    own_stderr: float  # standard error of the loss of a fresh sample of the size of the flow's

    @property
    def trusted(self) -> bool:
        """Whether the flow's sample represents the population here.

        It does while the loss of a fresh sample of its size would have a relative standard error of at most a third,
        and its own loss is within four standard errors of the population's.
        """
        precise = self.own_stderr <= LEAST_PRECISION * self.loss
        distance = abs(self.own_loss - self.loss)
        spread = FARTHEST * float(np.hypot(self.own_stderr, self.loss_stderr))
        return precise and distance <= spread + ROUNDING * self.loss


class Margins(NamedTuple):
    """y F(X) of the samples, with each sign of their noise, and the weights of the samples in a mean."""

    values: Float[ndarray, "signs n"]
    weights: Float[ndarray, " n"]

    @property
    def losses(self) -> Float[ndarray, " n"]:
        """The loss of each sample, its mean over the signs: they are not independent."""
        return softplus(-self.values).mean(0)


def score(fresh: Margins, own: Margins, strata: Int[ndarray, " K"], importance: bool) -> Score:
    """The score of a state from its margins on fresh samples and on the flow's own.

    Args:
        fresh: of the samples drawn by importance sampling.
        own: of the flow's samples.
        strata: how many of the fresh samples, one after the other, are drawn from each law of the mixture.
        importance: the flow's samples are drawn as the fresh ones are; else plainly, with weights of 1.
    """
    losses, share, size = fresh.losses, fresh.weights / fresh.weights.sum(), len(own.weights)
    loss = float((share * losses).sum())  # a dot product would wake the threads of BLAS
    deviations = np.split(share * (losses - loss), np.cumsum(strata)[:-1])
    stderr = float(np.sqrt(sum(len(part) * part.var() for part in deviations)))
    if importance:  # the same draw at another size
        own_stderr = stderr * float(np.sqrt(len(losses) / size))
    else:
        own_stderr = float(np.sqrt((share * (losses - loss) ** 2).sum() / size))
    right = np.where(np.isnan(fresh.values), np.nan, fresh.values > 0).mean(0)
    accuracy = float(np.average(right, weights=fresh.weights))
    own_loss = float(np.average(own.losses, weights=own.weights))
    return Score(loss, accuracy, stderr, own_loss, own_stderr)


def softplus(x: ndarray) -> ndarray:
    """log(1 + exp(x)), NaN for NaN."""
    with np.errstate(invalid="ignore"):
        return np.logaddexp(0.0, x)

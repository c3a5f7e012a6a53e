"""Loss and accuracy of a state of the flow on the population, and how far the flow's own sample can be trusted."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

HELD_OUT = 20_000  # samples on which losses and accuracies are estimated
LEAST_PRECISION = 1 / 3  # largest trusted relative standard error of a fresh sample's loss
FARTHEST = 4.0  # largest trusted distance of the own loss from the population's, in standard errors


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
        return precise and distance <= FARTHEST * float(np.hypot(self.own_stderr, self.loss_stderr))


class Margins(NamedTuple):
    """y F(X) of the samples, and their weights in a mean."""

    values: Float[ndarray, " n"]
    weights: Float[ndarray, " n"]


def score(fresh: Margins, own: Margins, size: int, importance: bool) -> Score:
    """The score of a state from its margins on fresh samples and on the flow's ``size`` samples.

    ``importance``: the flow's samples are drawn as the fresh ones are; else plainly, with weights of 1.
    """
    unweighted = softplus(-fresh.values)
    losses = fresh.weights * unweighted
    loss, stderr = float(losses.mean()), float(losses.std() / np.sqrt(len(losses)))
    if importance:  # the same draw at another size
        own_stderr = stderr * np.sqrt(len(losses) / size)
    else:
        own_stderr = np.sqrt(max(0.0, (losses * unweighted).mean() - loss**2) / size)
    wrong = float(np.average(fresh.values <= 0, weights=fresh.weights))
    own_loss = float((own.weights * softplus(-own.values)).mean())
    return Score(loss, 1 - wrong, stderr, own_loss, float(own_stderr))


def softplus(x: ndarray) -> ndarray:
    """log(1 + exp(x))."""
    return np.logaddexp(0.0, x)

"""The population gradient flow of the simplified ViT in its four numbers.

With v = α w* + β e (e a unit vector orthogonal to w*) and A equal to σ_A on the diagonal, γ inside a set and
ρ outside, gradient descent on the population loss stays in (α, β, γ, ρ). Source: arXiv 2210.09221, the
reduction behind its analysis; the expansion in moments, which frees the cost from D, is this library's.

F(X) = Σ_i φ(θ·x_i) with θ = (α, β) ⊗ κ(S_d - S_γ, S_γ - S_ρ, S_ρ): see ``posattn.theory.moments``.

The flow descends the loss of one fixed sample. Once that sample is nearly separable α runs away and its loss no longer
says anything about the population's. So every loss and accuracy is an estimate on a second sample, drawn from a seed
stream of its own and with rare samples made frequent (``sampling.tilted_laws``), and a trajectory ends where the fixed
sample stops standing for the population (``Score.trusted``).
"""

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

from posattn import checks
from posattn.theory import moments, sampling
from posattn.theory.integration import (
    NAMES,
    FlowDivergedError,
    SampleExhaustedWarning,
    Step,
    Trajectory,
    check_finite,
    place,
    solve,
)
from posattn.theory.moments import Expansion

HELD_OUT = 20_000  # samples on which losses and accuracies are estimated
LEAST_PRECISION = 1 / 3  # largest trusted relative standard error of a fresh sample's loss
FARTHEST = (
    4.0  # largest trusted distance of the fixed sample's loss from the population's, in standard errors
)


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
        apart = abs(self.own_loss - self.loss)
        return precise and apart <= FARTHEST * float(np.hypot(self.own_stderr, self.loss_stderr))


class PopulationFlow:
    """Gradient flow of (α, β, γ, ρ) on a fixed large sample of the structured distribution.

    Args:
        num_patches: D.
        set_size: C, a divisor of D.
        noise_rate: q.
        power: p, odd and at least 3.
        linear: ν, at least 0.
        diagonal: σ_A.
        scale: κ; default: D.
        noise_std: σ. If it is above 0, each sample is used with its noise and with the opposite noise, so
            that β = 0 stays 0 as it does in the population.
        samples: size of the sample, drawn once, on first use: O(min(L, C²)) per sample for β = 0, else O(D).
        seed: draws the sample, and from another stream the one for losses and accuracies.
        importance: draw the sample with rare sets made frequent, each sample with its weight, so that the flow
            represents the population long after a plain sample has become separable.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        num_patches: int,
        set_size: int,
        noise_rate: float,
        power: int = 3,
        linear: float = 0.01,
        diagonal: float = 2.0,
        scale: float | None = None,
        noise_std: float = 0.0,
        samples: int = 4000,
        seed: int = 0,
        importance: bool = False,
    ) -> None:
        checks.divides("set_size", set_size, "num_patches", num_patches)
        self.law = sampling.Law(num_patches, set_size, checks.probability("noise_rate", noise_rate))
        self.power = checks.odd_power("power", power)
        self.linear = checks.finite("linear", linear, 0.0)
        self.diagonal = checks.finite("diagonal", diagonal)
        self.scale = float(num_patches) if scale is None else checks.finite("scale", scale)
        self.noise_std = checks.finite("noise_std", noise_std, 0.0)
        self.samples = checks.positive_int("samples", samples)
        self.seed = checks.natural("seed", seed)
        self.importance = importance

    def gradient(self, alpha: float, beta: float, gamma: float, rho: float) -> Float[ndarray, " 4"]:
        """(∂L/∂α, ∂L/∂β, ∂L/∂γ, ∂L/∂ρ) on the flow's sample; not finite where the loss cannot be computed."""
        v = self._value(alpha, beta)
        with np.errstate(all="ignore"):
            weights, by_scores, _ = self._weights(gamma, rho)
            by_theta = self._expansion(len(v)).gradient(np.outer(v, weights).ravel()).reshape(len(v), 3)
            by_v = np.pad(by_theta @ weights, (0, 2 - len(v)))  # by symmetry 0 in β where β plays no part
            return np.concatenate([by_v, v @ by_theta @ by_scores])

    def hessian(self, alpha: float, beta: float, gamma: float, rho: float) -> Float[ndarray, "k k"]:
        """The second derivatives of the loss in (α, β, γ, ρ); in (α, γ, ρ) where β or the noise is 0."""
        v = self._value(alpha, beta)
        with np.errstate(all="ignore"):
            weights, first, second = self._weights(gamma, rho)
            theta, expansion = np.outer(v, weights).ravel(), self._expansion(len(v))
            by_theta = expansion.gradient(theta).reshape(len(v), 3)
            moved = np.hstack([np.kron(np.eye(len(v)), weights[:, None]), np.kron(v[:, None], first)])
            mixed = by_theta @ first
            bent = np.block(
                [[np.zeros((len(v), len(v))), mixed], [mixed.T, np.tensordot(v @ by_theta, second, 1)]]
            )
            return moved.T @ expansion.hessian(theta) @ moved + bent

    def logits(self, alpha: float, beta: float, gamma: float, rho: float) -> Float[ndarray, " n"]:
        """y F(X) of every sample of the flow; not finite where it overflows."""
        v = self._value(alpha, beta)
        return self._logits(self._expansion(len(v)), v, gamma, rho)

    def patches(self) -> tuple[Float[ndarray, "n D"], Float[ndarray, "n D"]]:
        """The flow's sample patch by patch: u and g of X_j = u_j w* + g_j e. All y = +1, sets contiguous.

        Each sample appears twice, with g and with -g. Takes 32 D bytes per sample, so use it for small D.
        """
        u, g, _ = (np.concatenate(parts) for parts in zip(*self._draw_patches(), strict=True))
        u, g = (x.reshape(self.samples, -1) for x in (u, g))
        return np.concatenate([u, u]), np.concatenate([g, -g])

    def weights(self) -> Float[ndarray, " n"]:
        """The weight in the loss of each sample of ``patches``: about 1 on average, all 1 without ``importance``."""
        return np.tile(self._without_noise.weights, 2)

    def score(self, alpha: float, beta: float, gamma: float, rho: float) -> Score:
        """Loss and accuracy of a state on the population, estimated on samples that the flow does not descend on."""
        v = self._value(alpha, beta)
        own, fresh = self._expansion(len(v)), self._held_out(len(v))
        margins = self._logits(fresh, v, gamma, rho)
        losses = fresh.weights * softplus(-margins)
        loss, stderr = float(losses.mean()), float(losses.std() / np.sqrt(HELD_OUT))
        if self.importance:  # the same draw at another size
            own_stderr = stderr * np.sqrt(HELD_OUT / self.samples)
        else:
            own_stderr = np.sqrt(max(0.0, (losses * softplus(-margins)).mean() - loss**2) / self.samples)
        wrong = float(np.average(margins <= 0, weights=fresh.weights))
        own_losses = own.weights * softplus(-self._logits(own, v, gamma, rho))
        return Score(loss, 1 - wrong, stderr, float(own_losses.mean()), float(own_stderr))

    def integrate(
        self,
        *,
        alpha: float,
        beta: float,
        gamma: float,
        rho: float,
        t_end: float,
        rtol: float = 1e-6,
        rate_ratio: float = 1.0,
    ) -> Trajectory:
        """The flow from a state at t = 0 to ``t_end``, or to where its sample no longer represents the population.

        Time is the rate of A times number of descent steps on v and on every entry of A: γ moves by
        -∂L/∂γ / (D(C-1)), ρ by -∂L/∂ρ / (D(D-C)), v by -``rate_ratio`` ∂L/∂v.

        Args:
            alpha, beta, gamma, rho: the state at t = 0.
            t_end: the last time.
            rtol: relative tolerance of a step.
            rate_ratio: the rate of v over the rate of A, ``value_rate / rate`` of ``descend``; 0 holds v. A scale κ
                at ratio r is a scale 1 at ratio r κ², with α κ times as large.

        Raises:
            TypeError, ValueError: a number is not finite, ``t_end`` is negative or ``rtol`` not above 0.
            FlowDivergedError: a value is not finite or the solver cannot go on; names the time and the state.

        Warns:
            SampleExhaustedWarning: the trajectory ends early; ``stopped`` says where and why.
        """
        rows: list[tuple[float, ...]] = []
        stopped = ""
        try:
            for step in self.steps(
                alpha=alpha, beta=beta, gamma=gamma, rho=rho, t_end=t_end, rtol=rtol, rate_ratio=rate_ratio
            ):
                check_finite("logits", self.logits(*step.state), step.t, step.state)
                score = self.score(*step.state)
                if not score.trusted and rows:
                    stopped = self._why_stopped(step, score)
                    break
                rows.append((step.t, *step.state, *score[:4]))
        except FloatingPointError as error:
            raise FlowDivergedError(str(error), Trajectory.of_rows(rows)) from None
        if stopped:
            warnings.warn(stopped, SampleExhaustedWarning, stacklevel=2)
        return Trajectory.of_rows(rows, stopped)

    def steps(
        self,
        *,
        alpha: float,
        beta: float,
        gamma: float,
        rho: float,
        t_end: float,
        rtol: float = 1e-6,
        rate_ratio: float = 1.0,
    ) -> Iterator[Step]:
        """The steps of the solver one by one, from the start on, without scores. Arguments as of ``integrate``.

        Raises FloatingPointError if the solver cannot go on.
        """
        given = zip(NAMES, (alpha, beta, gamma, rho), strict=True)
        start = np.array([checks.finite(name, number) for name, number in given])
        t_end, rtol = checks.finite("t_end", t_end, 0.0), checks.finite("rtol", rtol, np.finfo(float).tiny)
        moving = np.array([True, len(self._value(start[0], start[1])) == 2, True, True])
        ratio = checks.finite("rate_ratio", rate_ratio, 0.0)
        speed = (np.array([ratio, ratio, 1.0, 1.0]) / self._entries)[moving]
        return solve(
            lambda state: -speed * self.gradient(*state)[moving],
            lambda state: -speed[:, None] * self.hessian(*state),
            start,
            moving,
            t_end,
            rtol,
        )

    def _why_stopped(self, step: Step, score: Score) -> str:
        return (
            f"the flow's {self.samples} samples no longer stand for the population {place(step.t, step.state)}: their "
            f"loss is {score.own_loss:.3g}, that of the population {score.loss:.3g} ± {score.loss_stderr:.1g}, and a "
            f"fresh sample of their size tells it to ± {score.own_stderr:.1g}; the trajectory ends before. "
            f"More samples{'' if self.importance else ' or importance=True'} go further"
        )

    def _logits(
        self, expansion: Expansion, v: Float[ndarray, " k"], gamma: float, rho: float
    ) -> Float[ndarray, " n"]:
        with np.errstate(all="ignore"):
            return expansion.logits(np.outer(v, self._weights(gamma, rho)[0]).ravel())[expansion.rows]

    def _value(self, alpha: float, beta: float) -> Float[ndarray, " k"]:
        """(α, β), or (α) if β has no effect."""
        return np.array([alpha, beta] if beta != 0 and self.noise_std > 0 else [alpha])

    def _weights(self, gamma: float, rho: float) -> tuple[ndarray, ndarray, ndarray]:
        """κ(S_d - S_γ, S_γ - S_ρ, S_ρ), the weights of u_i, U_ℓ(i) and U in z_i.

        With their first and second derivatives in (γ, ρ): (3,), (3, 2), (3, 2, 2).
        """
        D, C, _ = self.law
        scores, entries = np.array([self.diagonal, gamma, rho]), np.array([1, C - 1, D - C])
        odds = np.exp(scores - scores.max())
        share = odds / (entries @ odds)
        mass = entries * share
        pull = np.eye(3) - mass
        first = share[:, None] * pull
        second = share[:, None, None] * (pull[:, :, None] * pull[:, None, :] - mass[:, None] * pull)
        contrast = self.scale * np.array([[1, -1, 0], [0, 1, -1], [0, 0, 1]])
        return contrast @ share, contrast @ first[:, 1:], np.tensordot(contrast, second[:, 1:, 1:], 1)

    @cached_property
    def _entries(self) -> Float[ndarray, " 4"]:
        """The number of entries of (v, A) that each number represents; descent divides its gradient by it."""
        D, C, _ = self.law
        return np.array([1.0, 1.0, max(D * (C - 1), 1), max(D * (D - C), 1)])

    def _expansion(self, values: int) -> Expansion:
        return self._with_noise if values == 2 else self._without_noise

    def _held_out(self, values: int) -> Expansion:
        return self._held_out_with_noise if values == 2 else self._held_out_without_noise

    @cached_property
    def _without_noise(self) -> Expansion:
        return self._expand_counts(self._rngs(0)[0], self.samples, self.importance)

    @cached_property
    def _with_noise(self) -> Expansion:
        return self._expand_patches(self._draw_patches())

    @cached_property
    def _held_out_without_noise(self) -> Expansion:
        return self._expand_counts(self._rngs(2)[0], HELD_OUT, True)

    @cached_property
    def _held_out_with_noise(self) -> Expansion:
        drawn = sampling.draw_patches(*self._rngs(2), HELD_OUT, self.law, importance=True)
        return self._expand_patches((u, self.noise_std * unit, weights) for u, unit, weights in drawn)

    def _expand_counts(self, rng: Generator, samples: int, importance: bool) -> Expansion:
        powers = moments.exponents(self.power, 3)
        counts = list(sampling.draw_counts(rng, samples, self.law, importance=importance))
        sums = [moments.count_moments(chunk, powers, self.law.set_size) for chunk in counts]
        weights = np.concatenate([chunk.weights for chunk in counts])
        return Expansion.over(powers, self.linear, np.concatenate(sums), weights)

    def _expand_patches(self, drawn: Iterator[tuple[ndarray, ndarray, ndarray]]) -> Expansion:
        powers = moments.exponents(self.power, 6)
        chunks = [(moments.patch_moments(u, g, powers), weights) for u, g, weights in drawn]
        sums, weights = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        sums = np.concatenate([sums, sums * (-1.0) ** powers[:, 3:].sum(axis=1)])
        return Expansion.over(powers, self.linear, sums, np.tile(weights, 2))

    def _draw_patches(self) -> Iterator[tuple[ndarray, ndarray, ndarray]]:
        drawn = sampling.draw_patches(*self._rngs(0), self.samples, self.law, importance=self.importance)
        for u, unit, weights in drawn:
            yield u, self.noise_std * unit, weights

    def _rngs(self, stream: int) -> tuple[Generator, Generator]:
        """Generators of the signal and of the noise; streams 0 (the flow's sample) and 2 (held out) are independent."""
        seeds = [self.seed if stream == 0 else [self.seed, stream], [self.seed, stream + 1]]
        return np.random.default_rng(seeds[0]), np.random.default_rng(seeds[1])


def softplus(x: ndarray) -> ndarray:
    """log(1 + exp(x))."""
    return np.logaddexp(0.0, x)

"""The population gradient flow of the simplified ViT in its four numbers.

With v = α w* + β e (e a unit vector orthogonal to w*) and A equal to σ_A on the diagonal, γ inside a set and
ρ outside, gradient descent on the population loss stays in (α, β, γ, ρ). Source: arXiv 2210.09221, the
reduction behind its analysis; the expansion in moments, which frees the cost from D, is this library's.

F(X) = Σ_i φ(θ·x_i) with θ = (α, β) ⊗ κ(S_d - S_γ, S_γ - S_ρ, S_ρ): see ``posattn.theory.moments``.

The flow descends the loss of one fixed sample. Once that sample is nearly separable α runs away and its loss no longer
says anything about the population's. So every loss and accuracy is an estimate on a second sample, drawn from a seed
stream of its own and with rare samples made frequent (``sampling.tilted_laws``), and a trajectory ends where the fixed
sample stops representing the population (``held_out.Score.trusted``).
"""

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from posattn import checks
from posattn.theory import held_out, sampling
from posattn.theory.fixed_sample import FixedSample
from posattn.theory.held_out import HELD_OUT, Margins, Score
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

ROUNDING = 1e-13  # of attention, relative


class PopulationFlow:
    """Gradient flow of (α, β, γ, ρ) on a fixed large sample of the structured distribution.

    Args:
        num_patches: D.
        set_size: C, a divisor of D.
        noise_rate: q.
        power: p, odd and at least 3.
        linear: ν, at least 0.
        diagonal: σ_A.
        scale: κ, above 0; default: D.
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
        self.scale = float(num_patches) if scale is None else checks.positive("scale", scale)
        self.noise_std = checks.finite("noise_std", noise_std, 0.0)
        self.samples = checks.positive_int("samples", samples)
        self.seed = checks.natural("seed", seed)
        self.importance = importance
        self._own = self._draw(self.samples, (self.seed, [self.seed, 1]), importance)
        self._held_out = self._draw(HELD_OUT, ([self.seed, 2], [self.seed, 3]), True)

    def _draw(self, size: int, seeds: tuple[Any, Any], importance: bool) -> FixedSample:
        return FixedSample(
            self.law, size, seeds, self.power, self.linear, self.noise_std, importance=importance
        )

    def gradient(self, alpha: float, beta: float, gamma: float, rho: float) -> Float[ndarray, " 4"]:
        """(∂L/∂α, ∂L/∂β, ∂L/∂γ, ∂L/∂ρ) on the flow's sample; not finite where the loss cannot be computed."""
        v = self._value(alpha, beta)
        with np.errstate(all="ignore"):
            weights, by_scores, _ = self._weights(gamma, rho)
            by_theta = self._own.expansion(len(v)).gradient(np.outer(v, weights).ravel()).reshape(len(v), 3)
            by_v = np.pad(by_theta @ weights, (0, 2 - len(v)))  # by symmetry 0 in β where β plays no part
            return np.concatenate([by_v, v @ by_theta @ by_scores])

    def hessian(self, alpha: float, beta: float, gamma: float, rho: float) -> Float[ndarray, "k k"]:
        """The second derivatives of the loss in (α, β, γ, ρ); in (α, γ, ρ) where β or the noise is 0."""
        v = self._value(alpha, beta)
        with np.errstate(all="ignore"):
            weights, first, second = self._weights(gamma, rho)
            theta, expansion = np.outer(v, weights).ravel(), self._own.expansion(len(v))
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
        return self._logits(self._own.expansion(len(v)), v, gamma, rho)

    def patches(self) -> tuple[Float[ndarray, "n D"], Float[ndarray, "n D"]]:
        """The flow's sample patch by patch: u and g of X_j = u_j w* + g_j e. All y = +1, sets contiguous.

        Each sample appears twice, with g and with -g. Takes 32 D bytes per sample, so use it for small D.
        """
        u, g, _ = (np.concatenate(parts) for parts in zip(*self._own.patches(), strict=True))
        u, g = (x.reshape(self.samples, -1) for x in (u, g))
        return np.concatenate([u, u]), np.concatenate([g, -g])

    def weights(self) -> Float[ndarray, " n"]:
        """The weight in the loss of each sample of ``patches``: about 1 on average, all 1 without ``importance``."""
        return np.tile(self._own.without_noise.weights, 2)

    def score(self, alpha: float, beta: float, gamma: float, rho: float) -> Score:
        """Loss and accuracy of a state on the population, estimated on samples that the flow does not descend on."""
        v = self._value(alpha, beta)
        fresh, own = (self._margins(sample, v, gamma, rho) for sample in (self._held_out, self._own))
        return held_out.score(fresh, own, sampling.strata(HELD_OUT), self.importance)

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

    def _margins(self, sample: FixedSample, v: Float[ndarray, " k"], gamma: float, rho: float) -> Margins:
        expansion = sample.expansion(len(v))
        values = self._logits(expansion, v, gamma, rho).reshape(-1, sample.size)
        return Margins(values, expansion.weights[: sample.size])

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
        weights = self.scale * np.append(apart(share[:-1], share[1:]), share[-1])
        return weights, contrast @ first[:, 1:], np.tensordot(contrast, second[:, 1:, 1:], 1)

    @cached_property
    def _entries(self) -> Float[ndarray, " 4"]:
        """The number of entries of (v, A) that each number represents; descent divides its gradient by it."""
        D, C, _ = self.law
        return np.array([1.0, 1.0, max(D * (C - 1), 1), max(D * (D - C), 1)])


def apart(x: Float[ndarray, " k"], y: Float[ndarray, " k"]) -> Float[ndarray, " k"]:
    """x - y, 0 where rounding alone separates them: it would give the sign of a logit that is 0."""
    return np.where(np.isclose(x, y, rtol=ROUNDING, atol=0.0), 0.0, x - y)

"""The population gradient flow of the simplified ViT in its four numbers.

With v = α w* + β e (e a unit vector orthogonal to w*) and A equal to σ_A on the diagonal, γ inside a set and
ρ outside, gradient descent on the population loss stays in (α, β, γ, ρ). Source: arXiv 2210.09221, the
reduction behind its analysis; the expansion in moments, which frees the cost from D, is this library's.

F(X) = Σ_i φ(θ·x_i) with θ = (α, β) ⊗ κ(S_d - S_γ, S_γ - S_ρ, S_ρ): see ``posattn.theory.moments``.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator
from scipy.integrate import Radau

from posattn import checks
from posattn.theory import moments, sampling
from posattn.theory.moments import Expansion

NAMES = ("alpha", "beta", "gamma", "rho")


class Trajectory(NamedTuple):
    """A solution of the flow at the times the solver chose.

    Times never fall; they may repeat, where the flow after a long plateau is faster than t can resolve.
    """

    t: Float[ndarray, " T"]  # rate times number of descent steps
    alpha: Float[ndarray, " T"]
    beta: Float[ndarray, " T"]
    gamma: Float[ndarray, " T"]
    rho: Float[ndarray, " T"]
    loss: Float[ndarray, " T"]
    accuracy: Float[ndarray, " T"]  # share of the sample; a logit of 0 is wrong


class FlowDivergedError(FloatingPointError):
    """The flow met a non-finite value; ``trajectory`` is what was integrated before."""

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


class PopulationFlow:
    """Gradient flow of (α, β, γ, ρ) on a fixed large sample of the structured distribution.

    Args:
        num_patches: D.
        set_size: C, a divisor of D.
        noise_rate: q.
        power: p, odd and at least 3.
        linear: ν, at least 0.
        diagonal: σ_A.
        scale: κ; None stands for D.
        noise_std: σ. Where it is above 0, each sample is taken with its noise and with the opposite noise, so
            that β = 0 stays 0 as it does in the population.
        samples: size of the sample, drawn once, on first use: O(min(L, C²)) a sample for β = 0, else O(D).
        seed: draws the sample.

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
        """y F(X) of every sample; not finite where it overflows."""
        v = self._value(alpha, beta)
        with np.errstate(all="ignore"):
            return self._expansion(len(v)).logits(np.outer(v, self._weights(gamma, rho)[0]).ravel())

    def patches(self) -> tuple[Float[ndarray, "n D"], Float[ndarray, "n D"]]:
        """The flow's sample patch by patch: u and g of X_j = u_j w* + g_j e. All y = +1, sets contiguous.

        Each sample stands twice, with g and with -g. Takes 32 D bytes a sample: to look at small D.
        """
        chunks = list(self._draw_patches())
        u, g = (np.concatenate(parts).reshape(self.samples, -1) for parts in zip(*chunks, strict=True))
        return np.concatenate([u, u]), np.concatenate([g, -g])

    def integrate(
        self, *, alpha: float, beta: float, gamma: float, rho: float, t_end: float, rtol: float = 1e-6
    ) -> Trajectory:
        """The flow from a state at t = 0 to ``t_end``, each step to a relative tolerance ``rtol``.

        Time is rate times number of descent steps on v and on every entry of A: γ moves by -∂L/∂γ / (D(C-1)),
        ρ by -∂L/∂ρ / (D(D-C)).

        Raises:
            TypeError, ValueError: a number is not finite, ``t_end`` is negative or ``rtol`` not above 0.
            FlowDivergedError: a value is not finite or the solver cannot go on; names the time and the state.
        """
        given = zip(NAMES, (alpha, beta, gamma, rho), strict=True)
        start = np.array([checks.finite(name, number) for name, number in given])
        t_end, rtol = checks.finite("t_end", t_end, 0.0), checks.finite("rtol", rtol, np.finfo(float).tiny)
        rows: list[tuple[float, ...]] = []
        try:
            for t, state in self._solve(start, t_end, rtol):
                rows.append((t, *state, *self._figures(t, state)))
        except FloatingPointError as error:
            raise FlowDivergedError(str(error), _trajectory(rows)) from None
        return _trajectory(rows)

    def _solve(
        self, start: Float[ndarray, " 4"], t_end: float, rtol: float
    ) -> Iterator[tuple[float, Float[ndarray, " 4"]]]:
        """The times and states that the solver accepts; FloatingPointError where it cannot go on."""
        moving = np.array([True, len(self._value(start[0], start[1])) == 2, True, True])
        speed = 1 / self._entries[moving]

        def whole(reduced: Float[ndarray, " k"]) -> Float[ndarray, " 4"]:
            state = start.copy()
            state[moving] = reduced
            return state

        def velocity(t: float, reduced: Float[ndarray, " k"]) -> Float[ndarray, " k"]:
            state = whole(reduced)
            return _finite("gradient", -speed * self.gradient(*state)[moving], t, state)

        def jacobian(t: float, reduced: Float[ndarray, " k"]) -> Float[ndarray, "k k"]:
            state = whole(reduced)
            return _finite("hessian", -speed[:, None] * self.hessian(*state), t, state)

        yield 0.0, start
        elapsed, tolerances = 0.0, {"rtol": rtol, "atol": 1e-3 * rtol}
        solver = Radau(velocity, 0.0, start[moving], t_end, jac=jacobian, **tolerances)
        while solver.status == "running":
            failure = solver.step()
            if failure and solver.t > 0:
                # A step fell below the spacing of t, as after a long plateau. The flow does not depend on t,
                # so the clock starts anew.
                elapsed = min(elapsed + solver.t, t_end)
                solver = Radau(velocity, 0.0, solver.y, t_end - elapsed, jac=jacobian, **tolerances)
            elif failure:
                raise FloatingPointError(f"{failure} {_place(elapsed, whole(solver.y))}")
            else:
                yield elapsed + solver.t, whole(solver.y)

    def _figures(self, t: float, state: Float[ndarray, " 4"]) -> tuple[float, float]:
        """(loss, accuracy) at a state."""
        logits = _finite("logits", self.logits(*state), t, state)
        return float(np.logaddexp(0.0, -logits).mean()), float((logits > 0).mean())

    def _value(self, alpha: float, beta: float) -> Float[ndarray, " k"]:
        """(α, β), or (α) where β plays no part."""
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
        """How many entries of (v, A) each number stands for: descent moves it by its gradient over them."""
        D, C, _ = self.law
        return np.array([1.0, 1.0, max(D * (C - 1), 1), max(D * (D - C), 1)])

    def _expansion(self, values: int) -> Expansion:
        return self._with_noise if values == 2 else self._without_noise

    @cached_property
    def _without_noise(self) -> Expansion:
        powers = moments.exponents(self.power, 3)
        counts = sampling.draw_counts(self._rngs()[0], self.samples, self.law)
        sums = [moments.count_moments(chunk, powers, self.law.set_size) for chunk in counts]
        return Expansion(powers, moments.factors(powers, self.linear), np.concatenate(sums))

    @cached_property
    def _with_noise(self) -> Expansion:
        powers = moments.exponents(self.power, 6)
        sums = np.concatenate([moments.patch_moments(u, g, powers) for u, g in self._draw_patches()])
        mirrored = sums * (-1.0) ** powers[:, 3:].sum(axis=1)
        return Expansion(powers, moments.factors(powers, self.linear), np.concatenate([sums, mirrored]))

    def _draw_patches(self) -> Iterator[tuple[Float[ndarray, "n L C"], Float[ndarray, "n L C"]]]:
        for u, unit in sampling.draw_patches(*self._rngs(), self.samples, self.law):
            yield u, self.noise_std * unit

    def _rngs(self) -> tuple[Generator, Generator]:
        return np.random.default_rng(self.seed), np.random.default_rng([self.seed, 1])


def _trajectory(rows: list[tuple[float, ...]]) -> Trajectory:
    return Trajectory(*np.array(rows).reshape(-1, len(Trajectory._fields)).T)


def _finite(name: str, values: ndarray, t: float, state: Float[ndarray, " 4"]) -> ndarray:
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{name} of the flow not finite {_place(t, state)}")
    return values


def _place(t: float, state: Float[ndarray, " 4"]) -> str:
    return f"at t = {t:.6g}, " + ", ".join(f"{n} = {x:.6g}" for n, x in zip(NAMES, state, strict=True))

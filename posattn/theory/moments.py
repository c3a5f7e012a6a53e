"""F(X) = Σ_i φ(θ·x_i) of a sample as a polynomial in θ, with coefficients computed once.

The quantities of a patch are x_i = (u_i, U_ℓ(i), U), followed by (g_i, G_ℓ(i), G) where patches carry noise.
φ(z) = z^p + ν z depends on the sample only through the moments Σ_i Π_k x_ik^e_k of degree p and 1.
"""

from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import expit, gammaln, poch

from posattn.theory.sampling import SetCounts


class Expansion(NamedTuple):
    """n samples as polynomials in θ, F = moments (factors Π_k θ_k^powers_k) with moments = basis mix.

    Equal samples are kept once, and so are moments that are multiples of each other, as Σ_i u_i and Σ_i U_ℓ(i) are.
    """

    powers: Int[ndarray, "E K"]
    factors: Float[ndarray, " E"]
    basis: Float[ndarray, "m R"]
    mix: Float[ndarray, "R E"]
    shares: Float[ndarray, " m"]  # of each row in the mean over samples
    rows: Int[ndarray, " n"]  # of each sample in ``basis``
    weights: Float[ndarray, " n"]  # of each sample in the mean

    @classmethod
    def over(
        cls,
        powers: Int[ndarray, "E K"],
        linear: float,
        moments: Float[ndarray, "n E"],
        weights: Float[ndarray, " n"],
    ) -> "Expansion":
        """The expansion of φ(z) = z^p + ν z over samples with these moments and weights."""
        n = len(moments)
        mixed = moments @ np.random.default_rng(0).uniform(1, 2, moments.shape[1])  # equal where the rows are
        _, first, rows = np.unique(mixed, return_index=True, return_inverse=True)
        if len(first) == n or not np.array_equal(moments[first][rows], moments):
            first = rows = np.arange(n)
        shares = np.bincount(rows, weights, len(first)) / n
        basis, mix = without_multiples(moments[first])
        return cls(powers, factors(powers, linear), basis, mix, shares, rows, weights)

    def logits(self, theta: Float[ndarray, " K"]) -> Float[ndarray, " m"]:
        """F of each row of ``basis``."""
        return self.basis @ (self.mix @ self._monomials(theta, np.zeros_like(self.powers[0])))

    def gradient(self, theta: Float[ndarray, " K"]) -> Float[ndarray, " K"]:
        """The gradient in θ of the mean of log(1 + exp(-F))."""
        pull = -expit(-self.logits(theta)) * self.shares
        return (pull @ self.basis) @ self.mix @ self._monomials(theta, np.eye(len(theta), dtype=int))

    def hessian(self, theta: Float[ndarray, " K"]) -> Float[ndarray, "K K"]:
        """The second derivatives in θ of that mean."""
        once = np.eye(len(theta), dtype=int)
        wrong = expit(-self.logits(theta))
        slopes = self.basis @ (self.mix @ self._monomials(theta, once))
        bends = self._monomials(theta, once[:, None] + once)
        curved = np.einsum("e,ekl->kl", (self.shares * wrong) @ self.basis @ self.mix, bends)
        return (slopes.T * (self.shares * wrong * (1 - wrong))) @ slopes - curved

    def _monomials(self, theta: Float[ndarray, " K"], times: Int[ndarray, "*m K"]) -> Float[ndarray, "E *m"]:  # noqa: F821 (no expression)
        """The coefficients of the moments in F, differentiated ``times`` times in each entry of θ."""
        powers = self.powers.reshape(-1, *[1] * (times.ndim - 1), len(theta))
        falling = np.prod(poch(powers - times + 1, times), axis=-1)  # e!/(e-k)!, and 0 for k > e
        return (self.factors * np.prod(theta ** np.maximum(powers - times, 0), axis=-1).T * falling.T).T


def exponents(power: int, variables: int) -> Int[ndarray, "E K"]:
    """The exponents of every monomial of degree ``power`` in K variables, then those of degree 1."""
    chosen = [*combinations_with_replacement(range(variables), power), *((k,) for k in range(variables))]
    return np.array([np.bincount(indices, minlength=variables) for indices in chosen])


def factors(powers: Int[ndarray, "E K"], linear: float) -> Float[ndarray, " E"]:
    """The multinomial coefficient of each monomial of degree p, ν for those of degree 1."""
    degree = powers.sum(axis=1)
    ways = np.rint(np.exp(gammaln(degree + 1) - gammaln(powers + 1).sum(axis=1)))
    return np.where(degree == 1, linear, ways)


def count_moments(counts: SetCounts, powers: Int[ndarray, "E 3"], set_size: int) -> Float[ndarray, "n E"]:
    """Σ_i u_i^a U_ℓ(i)^b U^c of each sample, for each row (a, b, c) of ``powers``."""
    repeats = counts.repeats.astype(float)
    sums, noisy = counts.plus - counts.minus, counts.plus + counts.minus

    @cache
    def over_sets(a: int, b: int) -> Float[ndarray, " n"]:
        of_patches = set_size if a == 0 else sums if a % 2 else noisy  # Σ u_i^a inside a set
        of_types = of_patches * sums ** float(b)
        free = repeats @ of_types if of_types.ndim == 1 else np.einsum("nt,nt->n", repeats, of_types)
        return float(set_size) ** (b + 1) + free

    total = over_sets(1, 0)
    return np.stack([over_sets(a, b) * total**c for a, b, c in powers.tolist()], axis=1)


def patch_moments(
    u: Float[ndarray, "n L C"], g: Float[ndarray, "n L C"], powers: Int[ndarray, "E 6"]
) -> Float[ndarray, "n E"]:
    """Σ_i u_i^a U_ℓ(i)^b U^c g_i^a' G_ℓ(i)^b' G^c' of each sample, for each row of ``powers``."""
    highest = int(powers.max())
    of_patch = [[x**k for k in range(highest + 1)] for x in (u, g)]
    of_set = [[x.sum(-1) ** k for k in range(highest + 1)] for x in (u, g)]
    of_all = [[x.sum((1, 2)) ** k for k in range(highest + 1)] for x in (u, g)]

    @cache
    def inside(a: int, a_noise: int) -> Float[ndarray, "n L"]:
        return np.einsum("nlc,nlc->nl", of_patch[0][a], of_patch[1][a_noise])

    def moment(a: int, b: int, c: int, a_noise: int, b_noise: int, c_noise: int) -> Float[ndarray, " n"]:
        sets = np.einsum("nl,nl,nl->n", inside(a, a_noise), of_set[0][b], of_set[1][b_noise])
        return sets * of_all[0][c] * of_all[1][c_noise]

    return np.stack([moment(*row) for row in powers.tolist()], axis=1)


def without_multiples(columns: Float[ndarray, "n E"]) -> tuple[Float[ndarray, "n R"], Float[ndarray, "R E"]]:
    """The columns that are no multiple of an earlier one, and the matrix that all are made of them with."""
    turned = np.ascontiguousarray(columns.T)
    kept: list[tuple[int, int]] = []  # columns, and where each is largest
    mix = np.zeros((len(turned), len(turned)))

    def multiple(column: ndarray, of: ndarray, row: int) -> float | None:
        ratio = column[row] / of[row] if of[row] else 0.0
        few = slice(0, 100)  # which tell most columns apart
        same = np.array_equal(column[few], ratio * of[few]) and np.array_equal(column, ratio * of)
        return ratio if same else None

    for index, column in enumerate(turned):
        for place, (earlier, row) in enumerate(kept):
            if (ratio := multiple(column, turned[earlier], row)) is not None:
                mix[place, index] = ratio
                break
        else:
            mix[len(kept), index] = 1.0
            kept.append((index, int(np.abs(column).argmax())))
    return np.ascontiguousarray(columns[:, [index for index, _ in kept]]), mix[: len(kept)]

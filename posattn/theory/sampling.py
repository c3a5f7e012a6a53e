"""Samples of the structured distribution along w*, drawn set by set or faster.

With y = +1 (the laws of (y, X) and (-y, -X) are one) a sample is given by its sets, and a set by its type:
the numbers of its patches that carry +1 and -1. The informative set is the first and of type (C, 0).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.random import Generator
from scipy.special import gammaln, logsumexp, xlogy

CHUNK = 2**18  # sets or patches held at once
# powers and shifts of importance sampling, see ``tilted_laws``
TILTS = [(power, shift) for power in (1, 3) for shift in (1, 2, 3, 4)]


class Law(NamedTuple):
    """The distribution along w*: D patches in sets of C, noise rate q."""

    num_patches: int
    set_size: int
    noise_rate: float


class SetCounts(NamedTuple):
    """The uninformative sets of n samples: types, and how many sets of each type a sample has."""

    plus: Int[ndarray, "*n T"]  # patches of the set that carry +1
    minus: Int[ndarray, "*n T"]  # patches of the set that carry -1
    repeats: Int[ndarray, "n T"]
    # probability under the law over that of the draw; 1 without importance sampling
    weights: Float[ndarray, " n"]


def set_types(law: Law) -> tuple[Int[ndarray, " T"], Int[ndarray, " T"], Float[ndarray, " T"]]:
    """(plus, minus, probability) of the (C + 1)(C + 2)/2 types of a set, the most frequent first."""
    C, q = law.set_size, law.noise_rate
    plus, minus = (np.tril_indices(C + 1)[k] for k in (0, 1))
    plus = plus - minus
    noisy = plus + minus
    log_ways = gammaln(C + 1) - gammaln(plus + 1) - gammaln(minus + 1) - gammaln(C - noisy + 1)
    chance = np.exp(log_ways + xlogy(noisy, q / 2) + xlogy(C - noisy, 1 - q))
    order = np.argsort(-chance, kind="stable")
    return plus[order], minus[order], chance[order] / chance.sum()


def tilted_laws(law: Law) -> Float[ndarray, "K T"]:
    """log r_k/p of the types of a set, for laws r_k under which sets oppose the label more often than under p.

    r_k ∝ p exp(-λ h) moves the sum over the sets of h, the set's sum U or U³ in units of its standard deviation, by
    about ``shift`` standard deviations: what is rare under p and misleads F. The first row is p itself.
    """
    plus, minus, chance = set_types(law)
    root = np.sqrt(max(1, law.num_patches // law.set_size - 1))
    sums = np.where(chance > 0, plus - minus, 0) / law.set_size
    rows = [np.zeros(len(chance))]
    for power, shift in TILTS:
        h = sums**power
        spread = np.sqrt(chance @ h**2) or 1.0  # 0 for q = 0
        rows.append(-shift / root * h / spread)
    tilts = np.stack([row - logsumexp(row, b=chance) for row in rows])
    return np.where(chance > 0, tilts, 0.0)


def draw_counts(rng: Generator, samples: int, law: Law, *, importance: bool = False) -> Iterator[SetCounts]:
    """The uninformative sets of ``samples`` samples, in chunks of bounded memory.

    A sample costs the smaller of L and the number of types: with fewer types than sets, the number of sets of each
    type is one multinomial draw.

    Args:
        rng: the random generator.
        samples: n.
        law: the distribution.
        importance: draw half of the samples from ``tilted_laws``, which makes rare samples frequent; the weights
            correct for it and are at most about 2.
    """
    num_sets, C, q = law.num_patches // law.set_size, law.set_size, law.noise_rate
    plus, minus, chance = set_types(law)
    by_type, free = num_sets > len(plus), num_sets - 1
    chunk = max(1, CHUNK // (len(plus) if by_type else num_sets))
    if importance:
        yield from _draw_tilted(rng, samples, law, chunk, by_type)
        return
    for start in range(0, samples, chunk):
        n = min(chunk, samples - start)
        if by_type:
            yield SetCounts(plus, minus, rng.multinomial(free, chance, size=n), np.ones(n))
        else:
            sets = rng.multinomial(C, [q / 2, q / 2, 1 - q], size=(n, free))
            yield SetCounts(sets[..., 0], sets[..., 1], np.ones(sets.shape[:2], dtype=int), np.ones(n))


def strata(samples: int) -> Int[ndarray, " K"]:
    """How many of the samples are drawn from each of ``tilted_laws``, one law after the other."""
    part = samples // (2 * len(TILTS))
    return np.array([samples - part * len(TILTS), *[part] * len(TILTS)])


def _draw_tilted(rng: Generator, samples: int, law: Law, chunk: int, by_type: bool) -> Iterator[SetCounts]:
    """Law by law; a sample's weight is its probability under p over that under their mixture."""
    free, log_ratios = law.num_patches // law.set_size - 1, tilted_laws(law)
    plus, minus, chance = set_types(law)
    sizes = strata(samples)
    for size, log_ratio in zip(sizes, log_ratios, strict=True):
        tilted = chance * np.exp(log_ratio)
        for start in range(0, size, chunk):
            n = min(chunk, size - start)
            if by_type:
                repeats = rng.multinomial(free, tilted / tilted.sum(), size=n)
                kinds, logs = (plus, minus), repeats @ log_ratios.T
            else:
                edges = np.cumsum(tilted) / tilted.sum()
                types = np.searchsorted(edges, rng.random((n, free)), side="right")
                kinds, logs = (plus[types], minus[types]), log_ratios.T[types].sum(1)
                repeats = np.ones(types.shape, dtype=int)
            yield SetCounts(*kinds, repeats, np.exp(-logsumexp(logs, axis=1, b=sizes / samples)))


def draw_patches(
    signal_rng: Generator, noise_rng: Generator, samples: int, law: Law, *, importance: bool = False
) -> Iterator[tuple[Float[ndarray, "n L C"], Float[ndarray, "n L C"], Float[ndarray, " n"]]]:
    """The samples of ``draw_counts`` patch by patch, u and unit noise g, and their weights, in bounded chunks."""
    C, position = law.set_size, np.arange(law.set_size)
    rows = max(1, CHUNK // law.num_patches)
    for counts in draw_counts(signal_rng, samples, law, importance=importance):
        for start in range(0, len(counts.repeats), rows):
            part = slice(start, start + rows)
            plus, minus = _set_by_set(counts, part)
            u = (position < plus[..., None]) * 1.0 - (position >= C - minus[..., None])
            u = np.concatenate([np.ones((len(u), 1, C)), u], axis=1)
            yield u, noise_rng.standard_normal(u.shape), counts.weights[part]


def _set_by_set(counts: SetCounts, rows: slice) -> list[Int[ndarray, "n sets"]]:
    repeats = counts.repeats[rows]
    sets = int(repeats[0].sum())
    types = [kind if kind.ndim == 1 else kind[rows] for kind in counts[:2]]
    return [
        np.repeat(np.broadcast_to(kind, repeats.shape).ravel(), repeats.ravel()).reshape(len(repeats), sets)
        for kind in types
    ]

"""Samples of the structured distribution along w*, drawn set by set or faster.

With y = +1 (the laws of (y, X) and (-y, -X) are one) a sample is its sets, and a set is how many of its
patches carry +1 and -1: its type. The informative set is the first and of type (C, 0).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.random import Generator
from scipy.special import gammaln, xlogy

CHUNK = 2**18  # sets or patches held at once


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


def draw_counts(rng: Generator, samples: int, law: Law) -> Iterator[SetCounts]:
    """The uninformative sets of ``samples`` samples, in chunks of bounded memory.

    A sample costs the smaller of L and the number of types: where types are fewer, how many sets have each
    type is one multinomial draw.
    """
    num_sets, C, q = law.num_patches // law.set_size, law.set_size, law.noise_rate
    few_types = num_sets > (C + 1) * (C + 2) // 2
    plus, minus, chance = set_types(law) if few_types else (np.empty(0),) * 3
    chunk = max(1, CHUNK // (len(plus) if few_types else num_sets))
    for start in range(0, samples, chunk):
        n = min(chunk, samples - start)
        if few_types:
            yield SetCounts(plus, minus, rng.multinomial(num_sets - 1, chance, size=n))
        else:
            sets = rng.multinomial(C, [q / 2, q / 2, 1 - q], size=(n, num_sets - 1))
            yield SetCounts(sets[..., 0], sets[..., 1], np.ones(sets.shape[:2], dtype=int))


def draw_patches(
    signal_rng: Generator, noise_rng: Generator, samples: int, law: Law
) -> Iterator[tuple[Float[ndarray, "n L C"], Float[ndarray, "n L C"]]]:
    """The samples of ``draw_counts`` patch by patch, u and unit noise g, in chunks of bounded memory."""
    C, position = law.set_size, np.arange(law.set_size)
    rows = max(1, CHUNK // law.num_patches)
    for counts in draw_counts(signal_rng, samples, law):
        for start in range(0, len(counts.repeats), rows):
            plus, minus = _set_by_set(counts, slice(start, start + rows))
            u = (position < plus[..., None]) * 1.0 - (position >= C - minus[..., None])
            u = np.concatenate([np.ones((len(u), 1, C)), u], axis=1)
            yield u, noise_rng.standard_normal(u.shape)


def _set_by_set(counts: SetCounts, rows: slice) -> list[Int[ndarray, "n sets"]]:
    repeats = counts.repeats[rows]
    sets = int(repeats[0].sum())
    types = [kind if kind.ndim == 1 else kind[rows] for kind in counts[:2]]
    return [
        np.repeat(np.broadcast_to(kind, repeats.shape).ravel(), repeats.ravel()).reshape(len(repeats), sets)
        for kind in types
    ]

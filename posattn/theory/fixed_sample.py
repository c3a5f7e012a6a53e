"""A fixed sample of the structured distribution, as polynomials in the flow's numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator, default_rng

from posattn.theory import moments, sampling
from posattn.theory.moments import Expansion


@dataclass(frozen=True)
class FixedSample:
    """``size`` samples, drawn once and on first use: with noise, each with its noise and with the opposite noise."""

    law: sampling.Law
    size: int
    seeds: tuple[Any, Any]
    """Of the signal and of the noise"""
    power: int
    linear: float
    noise_std: float
    importance: bool
    """Rare sets are made frequent, each sample with its weight"""

    def expansion(self, values: int) -> Expansion:
        """Without noise for one entry of v, α; with it for two, (α, β)."""
        return self._with_noise if values == 2 else self.without_noise

    @cached_property
    def without_noise(self) -> Expansion:
        """The samples along w*."""
        powers, (signal, _) = moments.exponents(self.power, 3), self._generators
        counts = list(sampling.draw_counts(signal, self.size, self.law, importance=self.importance))
        sums = [moments.count_moments(chunk, powers, self.law.set_size) for chunk in counts]
        weights = np.concatenate([chunk.weights for chunk in counts])
        return Expansion.over(powers, self.linear, np.concatenate(sums), weights)

    @cached_property
    def _with_noise(self) -> Expansion:
        powers = moments.exponents(self.power, 6)
        chunks = [(moments.patch_moments(u, g, powers), weights) for u, g, weights in self.patches()]
        sums, weights = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        sums = np.concatenate([sums, sums * (-1.0) ** powers[:, 3:].sum(axis=1)])
        return Expansion.over(powers, self.linear, sums, np.tile(weights, 2))

    def patches(self) -> Iterator[tuple[ndarray, ndarray, ndarray]]:
        """The samples patch by patch, in chunks: u (n, L, C), g (n, L, C) and their weights (n,)."""
        for u, unit, weights in sampling.draw_patches(
            *self._generators, self.size, self.law, importance=self.importance
        ):
            yield u, self.noise_std * unit, weights

    @property
    def _generators(self) -> tuple[Generator, Generator]:
        return default_rng(self.seeds[0]), default_rng(self.seeds[1])

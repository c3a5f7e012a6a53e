"""Moments that are multiples of each other, and equal samples, are kept once without changing a sum."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_expit

from posattn.theory.moments import Expansion, exponents, without_multiples


def test_multiples_are_kept_once() -> None:
    a, b = np.random.default_rng(0).integers(-9, 9, (2, 50)).astype(float)
    columns = np.stack([0 * a, a, 3 * a, b, a + b, -b / 2, 0 * b], axis=1)
    basis, mix = without_multiples(columns)
    assert basis.shape == (50, 4)
    assert np.array_equal(basis @ mix, columns)


@pytest.mark.parametrize("power", [3, 5])
def test_the_expansion_is_the_model(power: int) -> None:
    """Loss and gradient against the sum over patches of z^p + ν z, with repeated samples and weights."""
    generator = np.random.default_rng(1)
    patches = generator.integers(-1, 2, (40, 6, 3)).astype(float)[generator.integers(0, 40, 300)]
    patches[..., 2] = 2 * patches[..., 1]
    weights, theta, linear = generator.uniform(0.5, 2, 300), np.array([0.3, -0.2, 0.1]), 0.01
    powers = exponents(power, 3)
    moments = np.prod(patches[:, :, None] ** powers, axis=-1).sum(1)
    expansion = Expansion.over(powers, linear, moments, weights)
    assert expansion.basis.shape[0] <= 40
    assert expansion.basis.shape[1] < len(powers)

    def logits(theta: np.ndarray) -> np.ndarray:
        z = patches @ theta
        return (z**power + linear * z).sum(1)

    def loss(theta: np.ndarray) -> float:
        return float(-(weights * log_expit(logits(theta))).mean())

    assert_allclose(expansion.logits(theta)[expansion.rows], logits(theta), rtol=1e-12, atol=1e-12)
    steps = 1e-5 * np.eye(3)
    differences = [(loss(theta + step) - loss(theta - step)) / 2e-5 for step in steps]
    assert_allclose(expansion.gradient(theta), differences, rtol=1e-6)
    gradients = [
        (expansion.gradient(theta + step) - expansion.gradient(theta - step)) / 2e-5 for step in steps
    ]
    assert_allclose(expansion.hessian(theta), gradients, rtol=1e-6)

"""Samples drawn set by set: they have the law of the task, and tilted ones the same law by their weights."""

import numpy as np
import pytest
import torch
from flows import STATE, flow_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posattn.structure.partition import Partition
from posattn.theory import sampling
from posattn.theory.flow import PopulationFlow
from posattn.theory.moments import exponents, factors
from posattn.theory.task import StructuredTask, set_sums


@pytest.mark.parametrize(("patches", "size"), [(72, 2), (9, 3), (7, 1)])  # by type, and set by set
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_tilted_samples_of_a_law_without_some_types(patches: int, size: int, rate: float) -> None:
    """Without noise every sample is the same; at q = 1 no patch is 0."""
    law = sampling.Law(patches, size, rate)
    for counts in sampling.draw_counts(np.random.default_rng(0), 500, law, importance=True):
        plus, minus, repeats, _ = np.broadcast_arrays(*counts[:3], counts.weights[:, None])
        assert (plus + minus == (size if rate else 0))[repeats > 0].all()
        assert np.isfinite(counts.weights).all()
    flow = PopulationFlow(num_patches=patches, set_size=size, noise_rate=rate, samples=50, importance=True)
    if rate == 0:
        loss = np.logaddexp(0, -flow.logits(0.1, 0.0, 1.0, 0.0))
        score = flow.score(0.1, 0.0, 1.0, 0.0)
        assert (score.loss, score.accuracy) == (pytest.approx(loss[0]), 1.0)


def test_tilted_samples_keep_the_law() -> None:
    """Weighted, they have the probabilities of the law, also of what plain samples never show."""
    law, n = sampling.Law(60, 3, 0.2), 200_000
    counts = list(sampling.draw_counts(np.random.default_rng(0), n, law, importance=True))
    repeats, weights = (
        np.concatenate([c.repeats for c in counts]),
        np.concatenate([c.weights for c in counts]),
    )
    assert len(weights) == n
    assert weights.max() <= 2.001
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / np.sqrt(n))
    total = repeats @ (counts[0].plus - counts[0].minus)
    one = {-1: 0.1, 0: 0.8, 1: 0.1}
    chance = {0: 1.0}
    for _ in range(57):
        chance = {
            s: sum(chance.get(s - u, 0.0) * p for u, p in one.items())
            for s in range(min(chance) - 1, max(chance) + 2)
        }
    for threshold in (0, -8, -14):
        exact = sum(p for s, p in chance.items() if s <= threshold)
        seen = weights * (total <= threshold)
        assert seen.mean() == pytest.approx(exact, abs=4 * seen.std() / np.sqrt(n))
        assert (total <= threshold).mean() > 0.02


@pytest.mark.parametrize(("patches", "size"), [(48, 2), (48, 8)])  # by type, set by set
def test_sampled_sets_have_the_law_of_the_task(patches: int, size: int) -> None:
    law, q = sampling.Law(patches, size, 0.4), 0.4
    drawn = sampling.draw_patches(np.random.default_rng(0), np.random.default_rng(1), 3000, law)
    u, g, weights = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    assert (weights == 1).all()
    assert u.shape == (3000, patches // size, size)
    assert (u[:, 0] == 1).all()
    plus, minus = (u[:, 1:] == 1).sum(-1).ravel(), (u[:, 1:] == -1).sum(-1).ravel()
    for counts in (plus, minus):  # each is Binomial(C, q/2)
        expected = stats.binom.pmf(np.arange(size + 1), size, q / 2) * counts.size
        observed = np.bincount(counts, minlength=size + 1)
        frequent = expected > 5
        observed, expected = observed[frequent], expected[frequent]
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    covariance = np.cov(plus, minus)[0, 1]
    assert covariance == pytest.approx(-size * (q / 2) ** 2, abs=4 * size * q / 2 / np.sqrt(plus.size))
    assert stats.kstest(g.ravel()[:20000], "norm").pvalue > 1e-4
    # Sets of a sample are independent: the variance of the total is the sum of the variances.
    total = u.sum((1, 2))
    assert total.var() == pytest.approx(q * (patches - size), rel=5 * np.sqrt(2 / 3000))
    task = StructuredTask(Partition.contiguous(patches, size), dim=2, noise_rate=q)
    signal = task.sample_signal(3000, generator=torch.Generator().manual_seed(0))
    sums = set_sums(signal.signal * signal.labels[:, None], task.partition).sum(-1)
    assert stats.ks_2samp(total, sums.numpy()).pvalue > 1e-4


def test_types_are_a_law_and_chunks_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    plus, minus, chance = sampling.set_types(sampling.Law(512, 64, 0.1))
    assert len(set(zip(plus.tolist(), minus.tolist(), strict=True))) == 65 * 66 // 2
    assert (plus + minus <= 64).all()
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    assert (chance * (plus + minus)).sum() == pytest.approx(6.4, rel=1e-12)
    whole = flow_of(noise_std=0.1).gradient(**STATE)
    monkeypatch.setattr(sampling, "CHUNK", 64)
    np.testing.assert_allclose(flow_of(noise_std=0.1).gradient(**STATE), whole, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([3, 5, 7]), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_the_expansion_is_the_multinomial_theorem(power: int, theta: list[float]) -> None:
    powers = exponents(power, 3)
    expanded = factors(powers, 0.25) @ np.prod(np.array(theta) ** powers, axis=1)
    total = sum(theta)
    assert expanded == pytest.approx(total**power + 0.25 * total, rel=1e-9, abs=1e-9 * 6.0**power)

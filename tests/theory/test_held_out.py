"""Losses and accuracies of the flow are the population's, and a trajectory ends where its sample is not."""

import itertools
import warnings

import numpy as np
import pytest
from flows import LATE, START, ends, flow_of
from numpy import ndarray

from posattn.theory import sampling
from posattn.theory.flow import PopulationFlow
from posattn.theory.integration import SampleExhaustedWarning
from posattn.theory.moments import count_moments, exponents, factors


def fresh_loss(state: ndarray, **changes: float) -> tuple[float, float, float]:
    """Loss, its standard error and accuracy on 100,000 samples of another seed, drawn plainly."""
    flow = PopulationFlow(**(changes | {"seed": 1234, "samples": 100_000}))  # type: ignore[arg-type]
    logits = flow.logits(*state)
    losses = np.logaddexp(0, -logits)
    return losses.mean(), losses.std() / np.sqrt(len(losses)), (logits > 0).mean()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("changes", LATE[1:])
def test_a_separable_sample_ends_the_trajectory(changes: dict[str, float]) -> None:
    """Its own loss would fall to 1e-13, while the loss on fresh samples rises."""
    flow = PopulationFlow(**changes)  # type: ignore[arg-type]
    with pytest.warns(SampleExhaustedWarning, match="no longer stand for the population at t = "):
        run = flow.integrate(**START, t_end=1e8)
    assert run.valid_until == run.t[-1] < 1e8
    loss, stderr, accuracy = fresh_loss(ends(run)[1:5], **changes)
    assert run.loss[-1] == pytest.approx(loss, abs=5 * np.hypot(stderr, run.loss_stderr[-1]))
    assert run.accuracy[-1] == pytest.approx(accuracy, abs=2e-3)
    last = list(flow.steps(**START, t_end=1e8))[-1].state  # what was quoted before
    own = np.logaddexp(0, -flow.logits(*last)).mean()
    assert fresh_loss(last, **changes)[0] > 1000 * own
    assert flow.score(*last).loss > 1000 * own


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("changes", LATE[:1])
def test_importance_sampling_stands_for_the_population_long_after(changes: dict[str, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = PopulationFlow(**changes, importance=True).integrate(**START, t_end=1e8)  # type: ignore[arg-type]
    assert run.t[-1] == 1e8
    assert (np.diff(run.loss[run.t > 1e4]) < 4 * run.loss_stderr[run.t > 1e4][1:]).all()
    loss, stderr, _ = fresh_loss(ends(run)[1:5], **changes)
    assert loss < 1e-3
    assert run.loss[-1] == pytest.approx(loss, abs=5 * stderr)


def exact_score(law: sampling.Law, flow: PopulationFlow, state: ndarray) -> tuple[float, float]:
    """Loss and accuracy by enumerating every sample of a small law."""
    plus, minus, chance = sampling.set_types(law)
    free = law.num_patches // law.set_size - 1
    types = np.array(list(itertools.product(range(len(plus)), repeat=free)))
    counts = sampling.SetCounts(
        plus[types], minus[types], np.ones(types.shape, dtype=int), np.ones(len(types))
    )
    powers, odds = exponents(flow.power, 3), chance[types].prod(1)
    expanded = factors(powers, flow.linear)
    theta = state[0] * flow._weights(*state[2:])[0]
    logits = count_moments(counts, powers, law.set_size) @ (expanded * np.prod(theta**powers, axis=1))
    return float(odds @ np.logaddexp(0, -logits)), float(odds @ (logits > 0))


@pytest.mark.parametrize(("patches", "size"), [(12, 3), (8, 2), (14, 2)])  # set by set and, at last, by type
@pytest.mark.parametrize("importance", [False, True])
def test_scores_are_those_of_the_whole_population(patches: int, size: int, importance: bool) -> None:
    law = sampling.Law(patches, size, 0.3)
    flow = PopulationFlow(
        num_patches=patches, set_size=size, noise_rate=0.3, importance=importance, samples=20_000
    )
    for gamma, alpha in ((0.0, 0.1), (2.0, 0.3), (4.0, 0.5)):
        state = np.array([alpha, 0.0, gamma, -0.1])
        loss, accuracy = exact_score(law, flow, state)
        score = flow.score(*state)
        assert score.loss == pytest.approx(loss, abs=4 * score.loss_stderr)
        assert score.own_loss == pytest.approx(loss, abs=4 * score.own_stderr)
        assert score.accuracy == pytest.approx(accuracy, abs=0.01)


def test_uniform_attention_is_wrong_where_the_sum_over_all_patches_is_0() -> None:
    """However σ_A = γ = ρ is rounded: the logit is 0 exactly, and has no sign of rounding."""
    sums = np.array([1.0])
    for _ in range(88):
        sums = np.convolve(sums, [0.125, 0.75, 0.125])
    right = sums[np.arange(-88, 89) + 8 > 0].sum()
    for level, rounding in [(0.0, 0.0), (0.0, 2e-16), (0.0, -1e-16), (2.0, 0.0), (-3.0, 4e-16)]:
        flow = flow_of(num_patches=96, set_size=8, noise_rate=0.25, diagonal=level)
        accuracy = flow.score(0.07, 0.0, level + rounding, level).accuracy
        assert accuracy == pytest.approx(right, abs=0.004)


@pytest.mark.parametrize("importance", [False, True])
def test_no_sample_is_right_at_a_logit_of_0_and_none_wrong_without_noise(importance: bool) -> None:
    """Exactly, although the weights of the samples do not add up to their number."""
    options = {"num_patches": 10, "set_size": 1, "samples": 100, "importance": importance}
    assert flow_of(**options).score(0.0, 0.0, 0.5, 0.0).accuracy == 0.0
    assert flow_of(**options, linear=0.0).score(-1e-3, 0.0, 9.0, -9.0).accuracy > 0.0
    assert flow_of(**options | {"set_size": 10}).score(0.1, 0.0, 0.5, 0.0).accuracy == 1.0


SCATTERED = [
    ({"num_patches": 480, "set_size": 8, "noise_rate": 0.25}, (0.005, 0.0, 0.0, 0.0)),  # on the plateau
    ({"num_patches": 32, "set_size": 4, "noise_rate": 0.9, "scale": 1.0}, (2.0, 0.0, 0.0, 0.0)),
    ({"num_patches": 32, "set_size": 4, "noise_rate": 0.4, "scale": 1.0}, (1e-3, 0.0, 0.0, 0.0)),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("law", "state"), SCATTERED)
@pytest.mark.parametrize("importance", [False, True])
def test_standard_errors_are_the_scatter_over_seeds(
    law: dict[str, float], state: tuple[float, ...], importance: bool
) -> None:
    flows = [PopulationFlow(**law, samples=400, seed=seed, importance=importance) for seed in range(30)]  # type: ignore[arg-type]
    scores = np.array([flow.score(*state) for flow in flows])
    _, _, stderr, _, own_stderr = scores.mean(0)
    loss, _, _, own, _ = scores.std(0, ddof=1)
    assert stderr == pytest.approx(loss, rel=0.4)  # three standard errors of a scatter of 30
    assert own_stderr == pytest.approx(own, rel=0.4)


def test_a_sample_with_both_signs_of_its_noise_is_not_two_samples() -> None:
    flow = flow_of(noise_std=0.2, samples=100)
    with_noise, without = flow.score(0.02, 1e-9, 0.0, 0.0), flow.score(0.02, 0.0, 0.0, 0.0)
    assert with_noise.loss_stderr == pytest.approx(without.loss_stderr)
    assert with_noise.own_stderr == pytest.approx(without.own_stderr)


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("changes", [{"num_patches": 64, "set_size": 8, "noise_rate": 0.0}, {"set_size": 24}])
def test_a_flow_without_randomness_goes_to_its_end(changes: dict[str, float], importance: bool) -> None:
    flow = flow_of(**changes | {"noise_std": 0.0}, importance=importance)
    run = flow.integrate(**START, t_end=1e4)
    assert (run.t[-1], run.stopped) == (1e4, "")
    assert run.loss[-1] < 1e-6


def test_what_cannot_be_computed_is_not_right() -> None:
    score = flow_of(noise_std=0.0).score(1e200, 0.0, 0.0, 0.0)
    assert np.isnan([score.loss, score.accuracy]).all()
    assert not score.trusted

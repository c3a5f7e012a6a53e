"""The population flow: its sampler, its gradient, its trajectories, and where they stop."""

import itertools
import warnings
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy import stats

from posattn.structure.partition import Partition
from posattn.theory import sampling
from posattn.theory.flow import FlowDivergedError, PopulationFlow
from posattn.theory.integration import SampleExhaustedWarning, Trajectory
from posattn.theory.moments import count_moments, exponents, factors
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import StructuredTask, set_sums

STATE = {"alpha": 0.05, "beta": 0.04, "gamma": 0.6, "rho": -0.2}
DESIGN = {"num_patches": 512, "set_size": 8, "noise_rate": 0.25}
START = {"alpha": 0.005, "beta": 0.0, "gamma": 0.0, "rho": 0.0}


def flow_of(**changes: float) -> PopulationFlow:
    options = {"num_patches": 24, "set_size": 4, "noise_rate": 0.3, "samples": 40, "noise_std": 0.3}
    return PopulationFlow(**(options | changes))  # type: ignore[arg-type]


def full_model(
    flow: PopulationFlow, state: dict[str, float]
) -> tuple[SimplifiedViT, torch.Tensor, torch.Tensor]:
    """The simplified ViT in d = 2 at a state of the flow, the flow's samples, the pairs in one set."""
    D, C, _ = flow.law
    same = Partition.contiguous(D, C).same
    model = SimplifiedViT(D, 2, flow.power, flow.linear, flow.diagonal, flow.scale).double()
    inside, outside = torch.tensor([state["gamma"], state["rho"]], dtype=torch.double)
    model.scores.data = torch.where(same, inside, outside).fill_diagonal_(flow.diagonal)
    model.value.data = torch.tensor([state["alpha"], state["beta"]], dtype=torch.double)
    return model, torch.from_numpy(np.stack(flow.patches(), -1)), same


def projected(flow: PopulationFlow, state: dict[str, float]) -> tuple[float, ndarray]:
    """The full model's loss, and its entrywise gradient summed over each class of entries."""
    model, patches, same = full_model(flow, state)
    loss = logistic_loss(model(patches), torch.ones(len(patches), dtype=torch.double))
    scores, value = torch.autograd.grad(loss, [model.scores, model.value])
    assert (scores.diagonal() == 0).all()
    return loss.item(), np.array([*value.tolist(), scores[same].sum().item(), scores[~same].sum().item()])


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"power": 5, "linear": 0.03, "diagonal": 0.4, "scale": 1.0},
        {"power": 7, "num_patches": 12, "set_size": 3},
        {"num_patches": 72, "set_size": 2},  # fewer types than sets
        {"set_size": 1},
        {"set_size": 24},
        {"noise_std": 0.0},
        {"noise_rate": 0.0},
        {"noise_rate": 1.0},
    ],
)
def test_gradient_is_the_full_models_summed_over_each_class(changes: dict[str, float], beta: float) -> None:
    flow, state = flow_of(**changes), STATE | {"beta": beta}
    loss, expected = projected(flow, state)
    assert np.logaddexp(0, -flow.logits(**state)).mean() == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(flow.gradient(**state), expected, rtol=1e-10, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-3, 6), st.floats(-3, 3)),
    st.sampled_from([3, 5]),
)
def test_gradient_at_any_state(numbers: tuple[float, float, float, float], power: int) -> None:
    flow, state = flow_of(power=power, samples=8), dict(zip(STATE, numbers, strict=True))
    loss, expected = projected(flow, state)
    size = max(1.0, float(np.abs(expected).max()), loss)
    # the moments cancel at some states, where rounding is what is left: 1.4e-10 was seen
    assert np.abs(flow.gradient(**state) - expected).max() < 1e-9 * size


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("power", [3, 5])
def test_hessian_against_differences_of_the_gradient(beta: float, power: int) -> None:
    flow, state = flow_of(power=power), np.array(list((STATE | {"beta": beta}).values()))
    moving, steps = [0, 1, 2, 3] if beta else [0, 2, 3], 1e-5 * np.eye(4)
    moved = [(flow.gradient(*(state + h)) - flow.gradient(*(state - h))) / 2e-5 for h in steps]
    expected, hessian = np.array(moved)[np.ix_(moving, moving)], flow.hessian(*state)
    np.testing.assert_allclose(hessian, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_one_step_of_the_full_model_is_the_flows_step(beta: float) -> None:
    """Descent on every entry at once moves the mean of each class as the flow's velocity says."""
    flow, state, rate = flow_of(), STATE | {"beta": beta}, 1e-8
    model, patches, same = full_model(flow, state)
    loss = logistic_loss(model(patches), torch.ones(len(patches), dtype=torch.double))
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    other = same & ~torch.eye(24, dtype=torch.bool)
    after = [*model.value.tolist(), model.scores[other].mean().item(), model.scores[~same].mean().item()]
    flowed = flow.integrate(**state, t_end=rate)
    moved = np.array([x[-1] - x[0] for x in columns(flowed)[1:5]])
    np.testing.assert_allclose(np.array(after) - np.array(list(state.values())), moved, rtol=1e-4, atol=1e-15)
    assert model.scores.diagonal().eq(2.0).all()


def test_the_uniform_start_is_a_fixed_point_of_the_scores() -> None:
    flow = flow_of(diagonal=0.0, samples=2000)
    run = flow.integrate(alpha=0.05, beta=0.01, gamma=0.0, rho=0.0, t_end=1e6)
    assert np.abs(run.gamma).max() < 1e-12
    assert np.abs(run.rho).max() < 1e-12
    assert abs(run.alpha[-1] - 0.05) > 1e-3  # while the value goes on learning


def test_beta_0_stays_0_and_is_the_limit_of_small_beta() -> None:
    flow = flow_of(samples=500)
    still = flow.integrate(**STATE | {"beta": 0.0}, t_end=10.0)
    assert (still.beta == 0).all()
    near = flow.gradient(**STATE | {"beta": 1e-9})
    np.testing.assert_allclose(near, flow.gradient(**STATE | {"beta": 0.0}), rtol=1e-6, atol=1e-7)


def test_noise_without_strength_does_nothing() -> None:
    flow = flow_of(noise_std=0.0)
    run = flow.integrate(**STATE, t_end=1e-3)
    assert (run.beta == 0.04).all()
    assert run.alpha[-1] != run.alpha[0]


def columns(run: Trajectory) -> ndarray:
    return np.array(astuple(run)[:-1])


def ends(run: Trajectory) -> ndarray:
    return columns(run)[:, -1]


def test_the_run_of_the_paper_setting() -> None:
    """D = 512, C = 8, q = 0.25: a long plateau at the loss of counting, then the structure is found."""
    run = PopulationFlow(**DESIGN).integrate(**START, t_end=1e6)  # type: ignore[arg-type]
    plateau = (run.t > 100) & (run.t < 2e5)
    assert plateau.sum() > 5
    assert np.abs(run.loss[plateau] - 0.509).max() < 0.02
    assert np.abs(run.accuracy[plateau] - 0.78).max() < 0.02
    assert np.abs(run.gamma[plateau]).max() < 0.2
    assert run.loss[-1] < 0.03
    assert run.accuracy[-1] > 0.99
    assert run.gamma[-1] > 4
    assert run.rho[-1] == pytest.approx(-0.09, abs=0.01)
    assert (np.diff(run.own_loss) < 1e-7).all()  # gradient flow
    assert (run.stopped, run.valid_until) == ("", np.inf)


def test_restart_tolerance_and_time_zero() -> None:
    flow = PopulationFlow(**DESIGN)  # type: ignore[arg-type]
    zero = flow.integrate(**START, t_end=0.0)
    assert ends(zero)[:5].tolist() == [0.0, *START.values()]
    whole = flow.integrate(**START, t_end=8e5)
    tight = flow.integrate(**START, t_end=8e5, rtol=1e-9)
    np.testing.assert_allclose(ends(whole), ends(tight), rtol=1e-4, atol=1e-9)
    half = ends(flow.integrate(**START, t_end=4e5))
    rest = flow.integrate(**dict(zip(START, half[1:5], strict=True)), t_end=4e5)
    np.testing.assert_allclose(ends(rest)[1:], ends(whole)[1:], rtol=1e-4, atol=1e-9)


def test_the_sample_is_fixed_by_the_seed() -> None:
    first, again, other = (flow_of(seed=seed).gradient(**STATE) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_million_patches() -> None:
    flow = PopulationFlow(num_patches=2**20, set_size=64, noise_rate=2**-6, samples=1000)
    run = flow.integrate(alpha=1e-5, beta=0.0, gamma=0.0, rho=0.0, t_end=1e6)
    assert np.isfinite(columns(run)).all()
    # On the plateau the sign of the sum over all patches decides: C + N(0, q(D - C)) > 0.
    counting = stats.norm.cdf(64 / np.sqrt(2**-6 * (2**20 - 64)))
    assert abs(run.accuracy[0] - counting) < 4 * np.sqrt(0.25 / 1000) + 0.01


def test_a_transition_faster_than_the_clock_resolves() -> None:
    """The plateau of a million patches lasts 1e19; what follows takes less than the spacing of t."""
    flow = PopulationFlow(num_patches=2**20, set_size=64, noise_rate=2**-7, samples=500)
    start = {"alpha": 1e-4, "beta": 0.0, "gamma": 0.0, "rho": 0.0}
    steps = list(flow.steps(**start, t_end=1e20))
    assert steps[-1].t == 1e20
    assert all(later.t >= earlier.t for earlier, later in itertools.pairwise(steps))
    assert steps[-1].state[2] > 5
    assert not flow.score(*steps[-1].state).trusted  # 500 samples, long separable
    assert flow.score(*steps[0].state).trusted


def fresh_loss(state: ndarray, **changes: float) -> tuple[float, float, float]:
    """Loss, its standard error and accuracy on 100,000 samples of another seed, drawn plainly."""
    flow = PopulationFlow(**(changes | {"seed": 1234, "samples": 100_000}))  # type: ignore[arg-type]
    logits = flow.logits(*state)
    losses = np.logaddexp(0, -logits)
    return losses.mean(), losses.std() / np.sqrt(len(losses)), (logits > 0).mean()


LATE = [
    DESIGN,
    {"num_patches": 384, "set_size": 12, "noise_rate": 0.3, "diagonal": 2.5, "samples": 2000},
    {"num_patches": 96, "set_size": 6, "noise_rate": 0.35, "power": 5, "samples": 1000, "seed": 3},
]


@pytest.mark.parametrize("changes", LATE)
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


@pytest.mark.parametrize("importance", [False, True])
def test_no_sample_is_right_at_a_logit_of_0_and_none_wrong_without_noise(importance: bool) -> None:
    """Exactly, although the weights of the samples do not add up to their number."""
    options = {"num_patches": 10, "set_size": 1, "samples": 100, "importance": importance}
    assert flow_of(**options).score(0.0, 0.0, 0.5, 0.0).accuracy == 0.0
    assert flow_of(**options, linear=0.0).score(-1e-3, 0.0, 9.0, -9.0).accuracy > 0.0
    assert flow_of(**options | {"set_size": 10}).score(0.1, 0.0, 0.5, 0.0).accuracy == 1.0


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


@pytest.mark.parametrize("ratio", [0.0, 0.3, 4.0])
def test_the_ratio_of_rates_is_that_of_descent(ratio: float) -> None:
    """One small step of the full model with a rate of its own for v."""
    flow, rate = flow_of(samples=400), 1e-8
    model, patches, same = full_model(flow, STATE)
    logistic_loss(model(patches), torch.ones(len(patches), dtype=torch.double)).backward()
    groups = [{"params": [model.scores]}, {"params": [model.value], "lr": ratio * rate}]
    torch.optim.SGD(groups, lr=rate).step()
    last = list(flow.steps(**STATE, t_end=rate, rate_ratio=ratio))[-1].state
    expected = [*model.value.tolist(), model.scores[same & ~torch.eye(24, dtype=torch.bool)].mean().item()]
    moved = np.array(list(STATE.values()))[:3]
    np.testing.assert_allclose(last[:3] - moved, np.array(expected) - moved, rtol=1e-4, atol=1e-15)


def test_the_clock_of_v_runs_kappa_squared_times_as_fast() -> None:
    scaled = flow_of(scale=0.2, noise_std=0.0, samples=400)
    plain = flow_of(scale=1.0, noise_std=0.0, samples=400)
    start = {"beta": 0.0, "gamma": 0.0, "rho": 0.0, "t_end": 30.0, "rtol": 1e-8}
    first = list(scaled.steps(alpha=0.5, **start))[-1].state
    second = list(plain.steps(alpha=0.1, rate_ratio=0.04, **start))[-1].state
    np.testing.assert_allclose(second[2:], first[2:], rtol=1e-6)
    assert second[0] == pytest.approx(0.2 * first[0], rel=1e-6)


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


def test_divergence_names_time_and_state_and_keeps_the_trajectory() -> None:
    with pytest.raises(FlowDivergedError, match=r"t = 0, alpha = 1e\+150") as caught:
        flow_of().integrate(alpha=1e150, beta=0.0, gamma=0.0, rho=0.0, t_end=1.0)
    assert len(caught.value.trajectory.t) == 0


def test_divergence_midway_keeps_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_of()
    sound = flow.integrate(**STATE, t_end=0.004)
    gradient = flow.gradient
    limit = float(sound.gamma[len(sound.t) // 2])
    assert limit != sound.gamma[0]

    def broken(alpha: float, beta: float, gamma: float, rho: float) -> ndarray:
        beyond = abs(gamma - STATE["gamma"]) > abs(limit - STATE["gamma"])
        return gradient(alpha, beta, gamma, rho) * (np.nan if beyond else 1.0)

    monkeypatch.setattr(flow, "gradient", broken)
    with pytest.raises(FlowDivergedError, match=r"t = .*alpha = .*gamma = ") as caught:
        flow.integrate(**STATE, t_end=0.004)
    kept = caught.value.trajectory
    assert len(kept.t) > 1
    assert np.isfinite(columns(kept)).all()
    assert kept.t[-1] <= sound.t[len(sound.t) // 2 + 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_size": 5}, "set_size must divide num_patches"),
        ({"noise_rate": 1.5}, r"noise_rate .* 1\.5"),
        ({"power": 4}, "power must be odd"),
        ({"linear": -1.0}, "linear"),
        ({"noise_std": float("nan")}, "noise_std"),
        ({"samples": 0}, "samples"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow_of(**changes)


@pytest.mark.parametrize(
    "changes", [{"t_end": -1.0}, {"gamma": float("inf")}, {"rtol": 0.0}, {"rate_ratio": -1.0}]
)
def test_bad_integrations(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        flow_of().integrate(**({"t_end": 1.0} | STATE | changes))

"""The population flow: its sampler, its gradient, its trajectories, and where they stop."""

import itertools

import numpy as np
import pytest
import torch
from flows import DESIGN, START, STATE, columns, ends, flow_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy import stats

from posattn.structure.partition import Partition
from posattn.theory.flow import FlowDivergedError, PopulationFlow
from posattn.theory.simplified import SimplifiedViT, logistic_loss


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


@pytest.mark.usefixtures("unchecked")
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


@pytest.mark.usefixtures("unchecked")
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


@pytest.mark.usefixtures("unchecked")
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


@pytest.mark.usefixtures("unchecked")
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

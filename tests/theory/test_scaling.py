"""Power laws, plateaus and crossings against known answers."""

import numpy as np
import pytest

from posattn.theory.flow import PopulationFlow
from posattn.theory.integration import SampleExhaustedWarning
from posattn.theory.scaling import plateau_loss, power_law, time_below, transition_time


def test_a_power_law_is_recovered() -> None:
    x = [1.0, 2.0, 5.0, 11.0]
    law = power_law(x, [3 * value**-1.7 for value in x])
    assert law.exponent == pytest.approx(-1.7, abs=1e-12)
    assert law.high - law.low < 1e-6
    assert law(7.0) == pytest.approx(3 * 7.0**-1.7)
    assert law.r_squared == pytest.approx(1.0)


def test_the_interval_holds_the_true_power_as_often_as_it_says() -> None:
    rng, x = np.random.default_rng(0), np.geomspace(1, 50, 6)
    laws = [power_law(list(x), list(x**2 * np.exp(0.3 * rng.standard_normal(6)))) for _ in range(1000)]
    share = np.mean([law.low < 2 < law.high for law in laws])
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)


def test_a_true_power_is_rejected_as_seldom_as_it_says_and_a_bent_one_nearly_always() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(np.geomspace(1, 10, 5), 4)
    noise = 0.1 * rng.standard_normal((500, len(x)))
    straight = [power_law(list(x), list(x**1.5 * np.exp(e))).rejected for e in noise]
    bent = [power_law(list(x), list(x**1.5 * np.exp(0.3 * np.log(x) ** 2 + e))).rejected for e in noise]
    assert abs(np.mean(straight) - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 500)
    assert np.mean(bent) > 0.95
    once = power_law([1.0, 2.0, 3.0], [1.0, 9.0, 2.0])
    assert (once.p_value, once.rejected) == (None, False)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least three points, got 2"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "3 x and 2 y"),
        ([1.0, 2.0, 3.0], [1.0, 0.0, 2.0], "above 0"),
        ([1.0, 2.0, float("inf")], [1.0, 3.0, 2.0], "finite"),
        ([2.0, 2.0, 2.0], [1.0, 3.0, 2.0], "more than one x, got 2"),
    ],
)
def test_points_that_have_no_power_are_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        power_law(x, y)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_plateau_is_the_least_loss_over_alpha(scale: float | None) -> None:
    flow = PopulationFlow(num_patches=96, set_size=8, noise_rate=0.3, scale=scale, samples=50_000)
    alphas = np.geomspace(1e-1, 1e1, 201) / flow.scale
    grid = [np.logaddexp(0.0, -flow.logits(alpha, 0.0, 0.0, 0.0)).mean() for alpha in alphas]
    assert plateau_loss(flow) == pytest.approx(min(grid), abs=0.01)  # on other samples
    assert 0 < np.argmin(grid) < len(grid) - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"num_patches": 2**20, "noise_rate": 2**-14, "linear": 0.0},  # best at κ α = 1,300
        {"num_patches": 512, "noise_rate": 0.25, "linear": 1e5},  # and at 1e-6
    ],
)
def test_the_plateau_is_found_where_alpha_is_far_from_1(changes: dict[str, float]) -> None:
    flow = PopulationFlow(set_size=8, samples=10, **changes)  # type: ignore[arg-type]
    grid = [flow.score(10.0**k / flow.scale, 0.0, 0.0, 0.0).loss for k in np.arange(-7, 4, 0.1)]
    assert min(grid) - 3e-3 < plateau_loss(flow) <= min(grid)


def test_the_first_crossing_is_found_between_points() -> None:
    times, losses = [0.0, 1.0, 3.0, 4.0], [1.0, 0.8, 0.4, 0.9]
    assert time_below(times, losses, 0.6) == pytest.approx(2.0)
    assert time_below(times, losses, 2.0) == 0.0
    assert time_below(times, losses, 0.3) is None


@pytest.mark.usefixtures("unchecked")
def test_the_transition_is_where_the_trajectory_crosses() -> None:
    flow = PopulationFlow(num_patches=144, set_size=6, noise_rate=0.3, seed=2, importance=True)
    time = transition_time(flow, level=0.6)
    assert time is not None
    run = flow.integrate(alpha=0.005, beta=0.0, gamma=0.0, rho=0.0, t_end=2 * time)
    crossed = time_below(run.t, run.loss, 0.6 * plateau_loss(flow))
    assert time == pytest.approx(crossed, rel=1e-3)
    assert transition_time(flow, t_end=time / 10) is None


@pytest.mark.usefixtures("unchecked")
def test_a_slow_clock_of_v_delays_the_transition() -> None:
    flows = [
        PopulationFlow(num_patches=120, set_size=5, noise_rate=0.3, scale=scale, samples=1000)
        for scale in (120, 1, 1e-3)
    ]
    large, one, small = (transition_time(flow) for flow in flows)
    assert large is not None
    assert small is not None
    assert one == pytest.approx(large, rel=1e-2)
    assert small > 3 * large
    again = transition_time(flows[1], alpha=0.005 * 1e-3, rate_ratio=1e-6)
    assert again == pytest.approx(small, rel=1e-3)


def test_too_small_a_sample_says_so() -> None:
    flow = PopulationFlow(num_patches=144, set_size=6, noise_rate=0.3, samples=3)
    with pytest.warns(SampleExhaustedWarning, match="3 samples say too little"):
        assert transition_time(flow) is None

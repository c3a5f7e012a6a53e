"""Gaps to the original on hand-made trainings, and what the page says of them."""

from typing import Any

import pytest

from posattn.recipes.images.gaps import gaps
from posattn.recipes.images.page import lead_text


def training(accuracy: list[float], seconds_per_epoch: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "elapsed": [seconds_per_epoch * (1 + epoch) for epoch in range(len(accuracy))],
        "clock": "CPU",
    }


ONE = {"ViT": training([0.2, 0.4, 0.6], 20.0), "ours": training([0.4, 0.6, 0.7], 10.0)}
OTHER = {"ViT": training([0.3, 0.4, 0.5], 20.0), "ours": training([0.4, 0.6, 0.8], 10.0)}


def test_gaps_are_paired_by_seed_at_equal_epochs_and_at_equal_time() -> None:
    gap = gaps([ONE, OTHER])["ours"]
    assert gap["epochs"]["mean"] == pytest.approx([15, 20, 20])
    assert gap["epochs"]["std"] == pytest.approx([50**0.5, 0, 200**0.5])
    # ours ends after 30 s, between the ViT's first and second test: 0.3 and 0.35
    assert gap["at_time"]["values"] == pytest.approx([40, 45])
    assert gap["time"]["seconds"] == [20, 30]
    assert gap["time"]["mean"] == pytest.approx([(40 + 30) / 2, (40 + 45) / 2])
    assert (gap["early_epoch"], gap["early"]["values"]) == (1, pytest.approx([20, 10]))
    # Student's quantile for two seeds is 12.706: half = 12.706 * std / sqrt(2)
    assert gap["final"]["mean"] == pytest.approx(20)
    assert gap["final"]["half"] == pytest.approx(12.7062 * 200**0.5 / 2**0.5, rel=1e-4)


def test_a_model_that_is_slower_is_compared_when_the_original_has_finished() -> None:
    slow = {"ViT": ONE["ours"], "slow": ONE["ViT"]}
    assert gaps([slow])["slow"]["at_time"]["values"] == pytest.approx([-40])


def test_nothing_is_said_of_a_time_before_the_first_test() -> None:
    gap = gaps([{"ViT": training([0.5], 20.0), "ours": training([0.6], 10.0)}])["ours"]
    assert (gap["at_time"], gap["time"], gap["final"]["mean"]) == (None, None, pytest.approx(10))


def test_seconds_of_several_clocks_are_not_compared() -> None:
    mixed = {"ViT": ONE["ViT"] | {"clock": "wall"}, "ours": ONE["ours"]}
    gap = gaps([mixed, OTHER])["ours"]
    assert (gap["at_time"], gap["time"]) == (None, None)
    assert gap["final"] == gaps([ONE, OTHER])["ours"]["final"]


def test_one_seed_has_no_uncertainty_and_without_the_original_there_is_nothing() -> None:
    gap = gaps([ONE])["ours"]
    assert gap["final"]["half"] is None
    assert lead_text(gap) == (
        "It was +20.0 points ahead after 1 epoch and +10.0 at the end (one seed: the uncertainty is not known)."
    )
    assert gaps([{"ours": ONE["ours"]}]) == {}


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.70, 0.72, 0.71), "the lead lasts"),
        ((0.50, 0.48, 0.49), "the original is ahead in the end"),
        ((0.55, 0.70, 0.60), "the final gap cannot be told from none"),
    ],
)
def test_what_became_of_the_lead(ends: tuple[float, ...], said: str) -> None:
    runs = [{"ViT": training([0.2, 0.6], 2.0), "ours": training([0.4, end], 1.0)} for end in ends]
    assert lead_text(gaps(runs)["ours"]).endswith(f"over 3 seeds): {said}.")

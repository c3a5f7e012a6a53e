"""The transfer recipe at its smoke setting, and the search for the least number of samples."""

import json
from pathlib import Path

import numpy as np
import pytest

from posattn import cli
from posattn.recipes.transfer.curves import (
    BY_HAND,
    FROZEN,
    PERMUTED,
    SCRATCH,
    START,
    TUNED,
    UNIFORM,
    WAYS,
    WITHOUT,
    Lesson,
)
from posattn.recipes.transfer.page import needed_text, without_section
from posattn.recipes.transfer.run import least_samples, mean_reached
from posattn.recipes.transfer.settings import NeededConfig, TransferConfig, TransferStudyConfig


@pytest.mark.usefixtures("unchecked")
def test_transfer_at_its_smoke_setting(tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.main(["run", "transfer", "--smoke", "--jobs", "1", "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    curves, needed = result["transfer"], result["needed"]
    assert set(curves["mean"]) == {*WAYS, *WITHOUT}
    assert min(curves["association"]) > 0.9
    for way in (BY_HAND, FROZEN, TUNED, PERMUTED):
        assert min(curves["mean"][way]) > 0.95
    assert curves["mean"][SCRATCH][0] < curves["mean"][FROZEN][0]
    for D_samples in zip(needed["samples"][FROZEN], needed["samples"][SCRATCH], strict=True):
        frozen, scratch = (max(256 if n is None else n for n in samples) for samples in D_samples)
        assert frozen < scratch
    assert np.shape(needed["upstream"]) == (2, 2)
    assert np.min(needed["upstream"]) > 0.9
    assert len(needed["samples"][TUNED]) == len(needed["num_patches"])
    assert np.max(needed["samples"][TUNED]) == 1.0  # plain descent at one rate does not forget


def test_the_least_samples_are_found_by_bisection_and_read_between_powers_of_two() -> None:
    sizes: list[int] = []

    def rising(size: int) -> float:
        """One half at N = 1, growing by 0.1 with every doubling."""
        sizes.append(size)
        return 0.5 + 0.1 * (size.bit_length() - 1)

    assert least_samples(rising, NeededConfig(target=0.85, most=4096)) == pytest.approx(2**3.5)
    assert len(sizes) <= 4
    assert least_samples(rising, NeededConfig(target=0.4, most=64)) == 1.0
    assert least_samples(rising, NeededConfig(target=0.95, most=16)) is None


def test_the_attention_is_held_where_it_should_be() -> None:
    lesson = Lesson(TransferConfig(num_patches=24, set_size=4, dim=8, steps=20, test_samples=64), seed=1)
    trained = {way for way in (*WAYS, *WITHOUT) if lesson.start(way).scores.requires_grad}
    assert trained == {SCRATCH, TUNED}
    for way in (UNIFORM, START):
        assert lesson.start(way).attention().amax() < 0.5
    permuted = lesson.start(PERMUTED).attention()
    assert (permuted * lesson.downstream.partition.same).sum(-1).max() < 0.02
    frozen, tuned = lesson.start(FROZEN), lesson.start(TUNED)
    assert np.array_equal(frozen.attention().detach(), lesson.learned.attention().detach())
    assert np.array_equal(tuned.attention().detach(), lesson.learned.attention().detach())


def test_without_the_structure_no_number_of_samples_is_enough() -> None:
    """q·D = 24 > C² = 16: the sum over all patches does not tell the label."""
    config = TransferConfig(num_patches=48, set_size=4, dim=8, noise_rate=0.5, steps=150, test_samples=2000)
    few, many = (dict(zip(WITHOUT, Lesson(config, 0).accuracies(n, WITHOUT), strict=True)) for n in (8, 1024))
    assert few[PERMUTED] > 0.93 > 0.9 > max(few[UNIFORM], few[START])
    assert max(many[UNIFORM], many[START]) < 0.9


def test_permuted_sets_are_compared_with_the_own_ones() -> None:
    mean = {
        BY_HAND: [0.9, 1.0],
        PERMUTED: [0.5, 0.75],
        UNIFORM: [0.6, 0.6],
        START: [0.6, 0.6],
        SCRATCH: [0.5, 0.6],
    }
    claim = without_section({"samples": [1, 8], "mean": mean}).claim
    own, others = "0.90 at N = 1 and 1.00 at N = 8", "with the sets permuted 0.50 and 0.75"
    assert claim.endswith(f"With attention by hand to the own sets the accuracy is {own}, {others}.")


def test_a_training_that_diverges_is_named() -> None:
    config = TransferConfig(
        num_patches=8, set_size=1, dim=4, steps=50, batch_size=16, plain_rate=1e3, noise_rate=1.0
    )
    with pytest.raises(FloatingPointError, match=f"^{BY_HAND}, N = 16: loss .* rate 1000$"):
        next(Lesson(config, 0).accuracies(16, (BY_HAND,)))


def test_what_was_not_reached_is_said() -> None:
    assert needed_text([8.0, None, 2.0], 16) == "4 (2 to 8), > 16 in 1 of 3"
    assert needed_text([None, None], 16) == "> 16"
    assert mean_reached([8.0, 2.0]) == pytest.approx(4.0)
    assert mean_reached([8.0, None]) is None


def test_another_d_has_as_many_noisy_patches_and_no_fewer_steps() -> None:
    study = TransferStudyConfig(TransferConfig(num_patches=128, noise_rate=0.25, steps=300))
    small, large = study.at_patches(64), study.at_patches(1024)
    assert (small.noise_rate * 64, large.noise_rate * 1024) == (32.0, 32.0)
    assert (small.steps, large.steps) == (300, 1792)


def test_a_d_with_too_few_patches_for_the_noise_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "transfer", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--curves.set-size", "4", "--needed.num-patches", "8", "4"])
    assert "noise_rate must be a probability in [0, 1], got 2.0" in capsys.readouterr().err

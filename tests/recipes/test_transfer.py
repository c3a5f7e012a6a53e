"""The transfer recipe at its smoke setting, and the search for the least number of samples."""

import json
from pathlib import Path

import numpy as np
import pytest

from posattn import cli
from posattn.recipes.transfer.curves import FROZEN, ORACLE, SCRATCH, TUNED, WAYS
from posattn.recipes.transfer.run import at, fit_reached, least_samples, mean_reached, needed_text
from posattn.recipes.transfer.settings import NeededConfig, TransferConfig, TransferStudyConfig


def test_transfer_at_its_smoke_setting(tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.main(["run", "transfer", "--smoke", "--jobs", "1", "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    curves, needed = result["transfer"], result["needed"]
    assert set(curves["mean"]) == set(WAYS)
    assert min(curves["association"]) > 0.9
    assert min(curves["mean"][ORACLE] + curves["mean"][FROZEN]) > 0.95
    assert curves["mean"][SCRATCH][0] < curves["mean"][FROZEN][0]
    for D_samples in zip(needed["samples"][FROZEN], needed["samples"][SCRATCH], strict=True):
        frozen, scratch = (max(256 if n is None else n for n in samples) for samples in D_samples)
        assert frozen < scratch
    assert np.shape(needed["upstream"]) == (2, 2)
    assert np.min(needed["upstream"]) > 0.9
    assert len(needed["samples"][TUNED]) == len(needed["num_patches"])
    assert needed["fits"][ORACLE]["low"] <= needed["fits"][ORACLE]["exponent"]


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


def test_what_was_not_reached_is_said_and_left_out_of_the_fit() -> None:
    assert needed_text([8.0, None, 2.0], 16) == "4 (2 to 8), > 16 in 1 of 3"
    assert needed_text([None, None], 16) == "> 16"
    assert mean_reached([8.0, 2.0]) == pytest.approx(4.0)
    assert mean_reached([8.0, None]) is None
    fit = fit_reached((1, 4, 16), [[3.0, 3.0], [6.0, None], [12.0, 12.0]])
    assert fit is not None
    assert fit["exponent"] == pytest.approx(0.5)
    assert fit["low"] == pytest.approx(0.5, abs=1e-6)
    assert fit_reached((1, 4), [[3.0, 3.0], [None, None]]) is None
    assert fit_reached((1, 4), [[1.0, 1.0], [1.0, 1.0]]) == {"exponent": 0.0, "low": 0.0, "high": 0.0}


def test_another_d_has_as_many_noisy_patches_and_no_fewer_steps() -> None:
    study = TransferStudyConfig(TransferConfig(num_patches=128, noise_rate=0.25, steps=300))
    small, large = at(study, 64), at(study, 1024)
    assert (small.noise_rate * 64, large.noise_rate * 1024) == (32.0, 32.0)
    assert (small.steps, large.steps) == (300, 1792)


def test_a_d_with_too_few_patches_for_the_noise_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "transfer", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--needed.num-patches", "8", "4"])
    assert "noise_rate must be a probability in [0, 1], got 2.0" in capsys.readouterr().err

"""What a user gets wrong in the settings of the theory recipes is one line."""

import re
from pathlib import Path

import pytest

from posattn import cli


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["association", "--analysis.noise-rate", "2"], r"--analysis.noise-rate must be at most 1, got 2"),
        (
            ["association", "--small.set-size", "7"],
            "--small.set-size must divide num_patches, got set_size=7",
        ),
        (["association", "--small.dim", "2"], "--small.dim must be at least 3 for .*, got 2"),
        (["association", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["association", "--measurements", "0"], "--measurements must be at least 1, got 0"),
        (["association", "--frames", "0"], "--frames must be at least 1, got 0"),
        (["association", "--small.rate", "1e30"], r"not finite at step \d+, rate 1e\+30"),
        (["boundaries", "--set-size", "1"], "--set-size must be at least 2, got 1"),
        (["boundaries", "--ratios"], "--ratios"),
        (["boundaries", "--ratios", "1", "0.5"], r"--ratios must increase, got \(1.0, 0.5\)"),
        (["boundaries", "--flow-times", "0"], "--flow-times must be above 0, got 0"),
        (["phases", "--flow.num-patches", "7"], "--flow.set-size must divide num_patches"),
        (
            ["phases", "--descent.flow.set-size", "1"],
            "--descent.flow.set-size must be above 1 and below D = 96, got 1",
        ),
        (["phases", "--descent.flow.set-size", "96"], "above 1 and below D = 96, got 96"),
        (["masked", "--task.mask-rate", "1e-9"], "--task.mask-rate 1e-09 hides none of the patches"),
        (["phases", "--descent.dim", "1"], "--descent.dim must be at least 2, got 1"),
        (["association", "--analysis.dim", "1"], "--analysis.dim must be at least 2, got 1"),
        (["phases", "--descent.rate", "0"], "--descent.rate must be above 0, got 0"),
        (["phases", "--scan.num-patches", "80", "80"], "--scan.num-patches must not repeat a value"),
        (["solutions", "--margin", "0"], "--margin must be above 0, got 0"),
        (["solutions", "--noises", "-1"], "--noises must be at least 0, got -1"),
        (["structured-vit", "--model.num-heads", "3"], "--model.num-heads must divide embed_dim"),
        (["structured-vit", "--task.set-size", "1"], "--task.set-size must be at least 2, got 1"),
        (["masked", "--task.set-size", "1"], "--task.set-size must be at least 2, got 1"),
        (["teachers", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["transfer", "--needed.most", "100"], "--needed.most must be a power of 2, got 100"),
        (["transfer", "--curves.sizes", "0"], "--curves.sizes must be at least 1, got 0"),
    ],
)
def test_a_bad_setting_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, *settings = arguments
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", recipe, "--smoke", "--jobs", "1", "--out", str(tmp_path / "run"), *settings])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert re.search(expected, said)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("association --analysis.set-size 7", "set-size must divide num_patches, got set_size=7"),
        (
            "association --analysis.noise-rate None --analysis.num-patches 8 --analysis.dim 4096",
            "--analysis.dim must be at most exp(num_patches) for q = log(d) / D, got dim=4096, num_patches=8",
        ),
        # of the patches that are tested on, seed 0 hides some and seed 1 none
        ("masked --test-samples 1 --task.mask-rate 0.05", "hides none of the patches"),
        ("masked --task.mask-rate 0", "--task.mask-rate must be above 0, got 0"),
        ("masked --task.set-size 3", "--task.set-size must divide num_patches, got set_size=3"),
        ("phases --descent.flow.power 4", "--descent.flow.power must be odd, got 4"),
        ("phases --descent.flow.set-size 7", "--descent.flow.set-size must divide num_patches"),
        ("phases --scan.diagonal 1 800", "--scan.diagonal must be at most 700, got 800"),
        ("phases --scan.set-size 7", "--scan.set-size must divide --flow.num-patches, got --scan.set-size=7"),
        (
            "phases --scan.num-patches 90",
            "--flow.set-size must divide --scan.num-patches, got --flow.set-size=8",
        ),
        ("solutions --set-size 7", "--set-size must divide num_patches, got set_size=7"),
        ("teachers --degree 3", "--degree must be even and below num_patches = 8, got 3"),
        ("teachers --selected 9", "--selected must be at most num_patches = 8, got 9"),
        ("transfer --needed.num-patches 20", "must divide --needed.num-patches, got --curves.set-size=8"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_work(
    arguments: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", *arguments.split(), "--smoke", "--out", str(tmp_path / "run")])
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

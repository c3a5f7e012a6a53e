"""What a user gets wrong in the settings of the theory recipes is one line."""

import re
from pathlib import Path

import pytest

from posattn import cli


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["association", "--analysis.noise-rate", "2"], r"--analysis.noise-rate must be at most 1, got 2"),
        (["association", "--small.set-size", "7"], "set_size must divide num_patches, got set_size=7"),
        (["association", "--small.dim", "2"], "--small.dim must be at least 3 for .*, got 2"),
        (["association", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["association", "--measurements", "0"], "--measurements must be at least 1, got 0"),
        (["association", "--frames", "0"], "--frames must be at least 1, got 0"),
        (["association", "--small.rate", "1e30"], r"not finite at step \d+, rate 1e\+30"),
        (["boundaries", "--set-size", "1"], "at least two patches.*got 1"),
        (["boundaries", "--ratios"], "--ratios"),
        (["boundaries", "--flow-times", "0"], "--flow-times must be above 0, got 0"),
        (["phases", "--flow.num-patches", "7"], "set_size must divide num_patches"),
        (["phases", "--descent.rate", "0"], "--descent.rate must be above 0, got 0"),
        (["phases", "--scan.num-patches", "80", "80"], "--scan.num-patches must not repeat a value"),
        (["phases", "--flow.power", "4"], "power must be odd and at least 3, got 4"),
        (["solutions", "--margin", "0"], "--margin must be above 0, got 0"),
        (["solutions", "--noises", "-1"], "--noises must be at least 0, got -1"),
        (["structured-vit", "--model.num-heads", "3"], "--model.num-heads must divide embed_dim"),
        (["structured-vit", "--task.set-size", "1"], "at least two patches.*got 1"),
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

"""What a user gets wrong in the settings of the theory recipes is one line."""

import re
from pathlib import Path

import pytest

from posattn import cli


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["association", "--analysis.noise-rate", "2"], "noise_rate must be a probability .*got 2"),
        (["association", "--small.set-size", "7"], "set_size must divide num_patches, got set_size=7"),
        (["association", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["association", "--measurements", "0"], "measurements must be at least 1, got 0"),
        (["association", "--small.rate", "1e30"], r"not finite at step \d+, rate 1e\+30"),
        (["phases", "--flow.num-patches", "7"], "set_size must divide num_patches"),
        (
            ["phases", "--scan.num-patches", "--scan.seeds", "1", "--descent.rate", "0"],
            "rate must be above 0",
        ),
        (["solutions", "--margin", "0"], "margin must be above 0, got 0"),
        (["solutions", "--noises", "-1"], "noise must be a finite number of at least 0, got -1"),
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

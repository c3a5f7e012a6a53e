"""The script of docs/assumptions.md runs as written, and what it says of its results is so."""

import math
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "assumptions.md"


@pytest.fixture(scope="module")
def names() -> dict:
    found: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), PAGE.name, "exec"), found)
    return found


def test_changed_assumptions_are_learned(names: dict) -> None:
    for name in ("paper", "cold", "trained_diagonal", "on_unequal", "skewed", "classes"):
        assert names[name]["association"] > 0.8, name
        assert names[name]["accuracy"] > 0.9, name
    for name in ("logarithmic", "linear", "heads", "heavy", "correlated"):
        assert names[name]["accuracy"] > 0.7, name
    assert 0.8 < names["mislabelled"]["accuracy"] < 0.96
    assert math.isnan(names["linear"]["mass"])
    for name in ("adam_losses", "finite_losses", "denied_losses", "losses", "single_losses", "masked_losses"):
        first, last = (sum(part) / len(part) for part in (names[name][:10], names[name][-10:]))
        assert last < first, name
    assert names["reconstructed"].top_c > 0.9 > 2 * names["reconstructed"].chance


def test_refusals_are_one_line_that_names_the_quantity(names: dict) -> None:
    starts = (
        "patch association is not defined for overlapping sets: patch 0 is in sets [0, 5]",
        "in law does not hold for HeavyTailed, which overrides draw_noise",
        "the population flow is not defined for overlapping sets",
        "the population flow needs sets of one size, got sizes [3, 5, 8]",
        "set_size: the sets must have one size, got sizes [3, 8, 5]",
    )
    for said, start in zip(names["refusals"], starts, strict=True):
        assert said.startswith(start)
        assert "\n" not in said

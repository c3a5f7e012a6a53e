"""Interleaving and quartiles."""

import pytest

from posattn.bench.timing import Quartiles, interleaved, quartiles
from posattn.runs.seeds import mean_std, mean_std_text


def test_works_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}
    assert all(s >= 0 for each in seconds.values() for s in each)


def test_quartiles() -> None:
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == Quartiles(3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="got 1"):
        quartiles([1.0])


def test_mean_and_sample_deviation() -> None:
    assert mean_std([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_std([4.0]) == (4.0, 0.0)
    assert mean_std_text([0.5, 0.7], 1, 100) == "60.0 ± 14.1"
    assert mean_std_text([0.25], 2) == "0.25"
    with pytest.raises(ValueError, match="no values"):
        mean_std([])

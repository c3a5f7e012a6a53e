import pytest

from posattn.runs.seeds import averaged_text, collect, count_text, over_seeds


def test_trees_are_averaged_number_by_number() -> None:
    ones = [{"a": [1.0, 2.0], "b": {"c": 5.0}}, {"a": [3.0, 2.0], "b": {"c": 5.0}}]
    assert over_seeds(ones) == {
        "mean": {"a": [2.0, 2.0], "b": {"c": 5.0}},
        "std": {"a": [2.0**0.5, 0.0], "b": {"c": 0.0}},
    }


@pytest.mark.parametrize("ones", [[], [{"a": 1.0}, {"b": 1.0}], [[1.0], [1.0, 2.0]]])
def test_trees_that_differ_are_refused(ones: list) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (three messages)
        over_seeds(ones)


def test_trees_are_collected_leaf_by_leaf() -> None:
    ones = [{"a": [1.0, 2.0], "b": {"c": "x"}}, {"a": [3.0, 4.0], "b": {"c": "y"}}]
    assert collect(ones) == {"a": [[1.0, 3.0], [2.0, 4.0]], "b": {"c": ["x", "y"]}}


def test_a_page_says_one_seed_where_there_is_one() -> None:
    assert averaged_text("Mean ± std", 3) == "Mean ± std over 3 seeds"
    assert averaged_text("Mean ± std", 1) == "One seed"
    assert averaged_text("mean ± std", 1) == "one seed"
    assert [count_text(n, "seed") for n in (1, 2)] == ["1 seed", "2 seeds"]

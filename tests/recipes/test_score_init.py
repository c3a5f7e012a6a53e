"""What the page of `score-init` says of the starts."""

from posattn.recipes.score_init.run import starts_claim


def mean(accuracy: list[float], recall: float) -> dict:
    return {"mean": {"accuracy": accuracy, "neighbour_recall": recall}}


def test_starts_are_ranked_where_they_differ() -> None:
    means = {"table, small": mean([0.5, 0.7], 0.6), "table, unit": mean([0.4, 0.7], 0.2)}
    assert starts_claim(["1 epoch", "9 epochs"], means) == (
        "Test accuracy: after 1 epoch best with 'table, small' and worst with 'table, unit' (50.0 against 40.0 %); "
        "after 9 epochs 70.0 % with every start. Neighbours recognised by scores that are free of the grid: "
        "best with 'table, small' and worst with 'table, unit' (60.0 against 20.0 %)."
    )


def test_starts_that_are_equal_share_their_rank() -> None:
    """The first of them was named alone."""
    means = {
        f"table, {name}": mean([value], 0.5) for name, value in zip("abc", (0.4511, 0.4509, 0.4), strict=True)
    }
    assert starts_claim(["1 epoch"], means).startswith(
        "Test accuracy: after 1 epoch best with 'table, a' and 'table, b' and worst with 'table, c' "
        "(45.1 against 40.0 %)."
    )


def test_a_single_start_has_no_rank() -> None:
    assert starts_claim(["2 epochs"], {"relative, small": mean([0.5], 0.6)}) == (
        "Test accuracy: after 2 epochs 50.0 % with 'relative, small'."
    )

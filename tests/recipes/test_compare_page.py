"""What the page of `posattn compare` counts as a difference."""

import numpy as np
import pandas as pd

from posattn.recipes.compare.page import differences, sections

ROWS = [  # head, a, b, stderr
    (0, 0.5, 0.6, 0.01),  # ten errors
    (1, 1.0, 1.0 - 1.2e-7, 0.0),  # rounding of a constant
    (2, 40.0, 40.00002, 1e-9),  # rounding of a larger value
    (3, 0.39, 0.40, 0.0),  # constant on both sides, so exact
    (4, 0.5, 0.52, 0.01),  # two errors
    (5, 0.2, 0.2, 0.0),
    (6, 0.5, np.nan, np.nan),
    (7, 0.5, 0.6, np.nan),
]


def test_rounding_is_no_difference_and_exact_differences_are_the_clearest() -> None:
    heads = pd.DataFrame([(0, head, "locality", a, b, b - a, error) for head, a, b, error in ROWS])
    heads.columns = ["layer", "head", "measure", "a", "b", "difference", "stderr"]
    section = differences({"names": ["p", "q"], "paired": 0}, heads)
    assert section.claim.startswith(
        "2 of 8 differences between q and p are more than 3 standard errors from 0"
    )
    means, largest = section.items
    assert means.rows[0][-1] == "2"
    assert [row[1] for row in largest.rows] == ["3", "0", "4"]
    assert largest.rows[0][-1] == "+0.010 ± 0"


def test_maps_that_are_not_asked_for_are_no_claim() -> None:
    table = pd.DataFrame(columns=["layer", "head", "measure", "a", "b", "difference", "stderr"], dtype=float)
    numbers = {"names": ["p", "q"], "paired": 0, "measures": {}, "shown": [], "queries": []}
    titles, claims = zip(*((each.title, each.claim) for each in sections(numbers, table, 6)), strict=True)
    assert titles == ("Differences", "Heads side by side")
    assert claims[1] == "No head has maps among the same patches."
    assert [each.title for each in sections(numbers, table, 0)] == ["Differences"]

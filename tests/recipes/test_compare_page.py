"""What the page of `posattn compare` counts as a difference."""

import numpy as np
import pandas as pd
import timm
import torch

from posattn.recipes.compare.page import differences, sections
from posattn.recipes.compare.run import errors_are
from posattn.vision.inspect.compare import Side, compare_sides, side_of
from posattn.vision.inspect.inspection import inspect_model

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
        "2 of 6 differences between q and p are more than 3 standard errors from 0"
    )
    assert section.claim.endswith(
        " Of 1 more the error is not known: that takes three images of either side."
    )
    means, largest = section.items
    assert means.rows[0][-1] == "2"
    assert [row[1] for row in largest.rows] == ["3", "0", "4"]
    assert largest.rows[0][-1] == "+0.010 ± 0"


def test_differences_without_errors_are_not_counted_as_none() -> None:
    rows = [(0, head, "entropy", 1.0, 2.0, 1.0, np.nan) for head in range(2)]
    heads = pd.DataFrame(rows, columns=["layer", "head", "measure", "a", "b", "difference", "stderr"])
    section = differences({"names": ["p", "q"], "paired": 2}, heads)
    assert section.claim.startswith("0 of 0 differences")
    assert "Of 2 more the error is not known" in section.claim
    assert section.items[0].rows[0][-1] == "–"


def test_maps_that_are_not_asked_for_are_no_claim() -> None:
    table = pd.DataFrame(columns=["layer", "head", "measure", "a", "b", "difference", "stderr"], dtype=float)
    numbers = {"names": ["p", "q"], "paired": 0, "measures": {}, "shown": [], "queries": []}
    titles, claims = zip(*((each.title, each.claim) for each in sections(numbers, table, 6)), strict=True)
    assert titles == ("Differences", "Heads side by side")
    assert claims[1] == "No head has maps among the same patches."
    assert [each.title for each in sections(numbers, table, 0)] == ["Differences"]


def test_the_same_images_in_other_groups_are_not_called_others() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_classes=2)

    def side(seed: int, memory: float = 1e9) -> Side:
        images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        return side_of(inspect_model(vit, images, memory=memory))

    whole, others, in_five = side(0), side(1), side(0, memory=5 * 3 * 5 * 5 * 4)
    for other, groups, words in [
        (whole, 8, "paired: the images are the same"),
        (others, 0, "independent: the images differ"),
        (in_five, 0, "independent: the images are the same, but were summed in other groups (--memory)"),
    ]:
        assert compare_sides(whole, other).attrs["paired"] == groups
        assert errors_are(whole, other) == words

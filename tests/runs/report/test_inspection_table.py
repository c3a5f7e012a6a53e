"""An inspection as Markdown: its measures by layer and head, and all numbers beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from posattn.recipes.inspect.settings import InspectConfig
from posattn.runs.folder import open_run
from posattn.runs.report.export import export

NUMBERS = [
    (0, 0, "positionality", 0.25, 0.0125),
    (0, 0, "entropy", 2.0, 0.5),
    (3, 0, "positionality", np.nan, np.nan),
    (3, 0, "entropy", 1.0, 0.0),
    (3, 1, "positionality", -0.125, np.nan),  # of two images: too few for an error
    (3, 1, "entropy", 1.5, 0.25),
    (3, -1, "high_norm_share", 0.1, 0.0),
]
SAME, OTHER = {"entropy": 2.833}, {"entropy": 1.5}


@pytest.mark.parametrize(
    ("references", "uniform"),
    [
        ([SAME, SAME], ["| all | uniform map, or chance | – | 2.833 |"]),
        (
            [SAME, OTHER],
            ["| 0 | uniform map, or chance | – | 2.833 |", "| 3 | uniform map, or chance | – | 1.500 |"],
        ),
    ],
)
def test_an_inspection_is_exported_with_its_numbers(
    references: list[dict[str, Any]], uniform: list[str], tmp_path: Path
) -> None:
    table = pd.DataFrame(NUMBERS, columns=["layer", "head", "measure", "value", "stderr"])
    result = {"kind": "inspection", "title": "T", "summary": "S.", "images": 8, "page": []}
    with open_run(tmp_path / "run", "inspect", InspectConfig("vit", "pictures")) as run:
        run.save("table.parquet", table.to_parquet(index=False))
        run.save("table.csv", table.to_csv(index=False).encode())
        run.finish({**result, "numbers": [0, 3], "reference": references[0], "references": references})
    text = export(tmp_path / "run", tmp_path / "out").read_text()
    assert text.split("| --- | --- | --- | --- |\n")[1].splitlines() == [
        *uniform,
        "| 0 | 0 | 0.250 ± 0.013 | 2.000 ± 0.5 |",
        "| 3 | 0 | – | 1.000 ± 0 |",
        "| 3 | 1 | -0.125 | 1.500 ± 0.25 |",
    ]
    assert "| layer | head | Positionality | Entropy, nats |" in text
    figure = (tmp_path / "out" / "positionality.svg").read_text()
    assert "![Positionality](positionality.svg)" in text
    assert "layer" in figure
    assert not (tmp_path / "out" / "distance.svg").exists()  # it was not measured
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "table.csv"), table)

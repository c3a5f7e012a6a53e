"""What positionality says of a head."""

import json
from pathlib import Path

import pytest
from posattn.recipes.positionality.run import rank_correlation

from posattn import cli


def rows(costs: list[float]) -> list[dict[str, float]]:
    return [
        {"positionality": place / 10, "loss": cost, "layer": place % 2} for place, cost in enumerate(costs)
    ]


def test_the_rank_correlation_and_its_interval() -> None:
    found = rank_correlation({"0": rows([9, 7, 5, 3, 1]), "1": rows([8, 6, 4, 2, 0])}, "loss")
    assert found["by_seed"] == pytest.approx([-1, -1])
    assert found["by_layer"] == pytest.approx([-1, -1], abs=0.2)
    assert found["all"] < -0.9
    assert found["low"] <= found["all"] <= found["high"] < 0
    assert rank_correlation({"0": rows([1.0] * 5)}, "loss")["all"] == 0


def test_every_head_of_every_seed_is_converted_by_itself(tmp_path: Path) -> None:
    cli.main(["run", "positionality", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["heads"]) == {"0", "1"}
    for of_seed in result["heads"].values():
        assert [(row["layer"], row["head"]) for row in of_seed] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert all(0 < row["positionality"] <= 1 for row in of_seed)
        assert any(row["loss"] != 0 for row in of_seed)
    assert "Rank correlation" in (tmp_path / "run" / "report.html").read_text()

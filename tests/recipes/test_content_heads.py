"""Heads of trained ViTs converted one by one."""

import json
from pathlib import Path

import pytest
import torch

from posattn import cli
from posattn.recipes.content_heads.correlation import rank_correlation
from posattn.recipes.content_heads.page import interval_text, ranking_section
from posattn.recipes.content_heads.run import calibration_set, summary
from posattn.recipes.content_heads.settings import ContentHeadsConfig
from posattn.vision.data.images import ImageSet


def seed(costs: list[float]) -> dict:
    return {
        "ranked": [
            {"positionality": i / 10, "test_loss": cost, "block": i % 2, "drop": cost}
            for i, cost in enumerate(costs)
        ]
    }


def test_the_rank_correlation_and_its_interval() -> None:
    found = rank_correlation([seed([9, 7, 5, 3, 1]), seed([8, 6, 4, 2, 0])], "loss")
    assert found["by_seed"] == pytest.approx([-1, -1])
    assert found["by_block"] == pytest.approx([-1, -1], abs=0.2)
    assert found["all"] < -0.9
    assert found["low"] <= found["all"] <= found["high"] < 0
    assert rank_correlation([seed([1.0] * 5)], "loss")["all"] == 0


@pytest.mark.parametrize("costs", [[0.0] * 4, [1.0], [2.0, 5.0], [3.0, 2.0, 1.0]])
def test_an_interval_that_is_not_known_is_said(costs: list[float]) -> None:
    found = rank_correlation([seed(costs)], "loss")
    json.dumps(found, allow_nan=False)
    assert -1 <= found["all"] <= 1
    assert interval_text(found["low"], found["high"]) == "unknown"
    assert interval_text(-0.25, 0.5) == "-0.25 to 0.50"


def test_the_drop_is_averaged_by_block() -> None:
    found = summary(seed([1.0, 10.0, 3.0, 30.0]) | {"accuracy": {}})
    assert found["block"] == {"0": 2.0, "1": 20.0}
    assert found["drop"] == [1.0, 10.0, 3.0, 30.0]


def test_calibration_images_are_of_all_classes_where_the_set_is_sorted() -> None:
    labels = torch.arange(10).repeat_interleave(20)
    images = torch.zeros(200, 1, 2, 2, dtype=torch.uint8)
    sorted_set = ImageSet("sorted", images, labels, tuple("0123456789"))
    drawn = calibration_set(sorted_set, 50, seed=0)
    assert len(drawn) == 50
    assert drawn.labels.unique().numel() == 10
    assert len(calibration_set(sorted_set, 1000, seed=0)) == 200


def test_a_single_seed_has_no_spread() -> None:
    one = seed([0.01, 0.02]) | {"accuracy": {}}
    for need in one["ranked"]:
        need |= {"head": 0, "stderr": 0.0}
    numbers = {"mean": {"drop": [0.01, 0.02]}, "seeds": [one]}
    items = ranking_section(ContentHeadsConfig(seeds=1), numbers, {"0": [0.01], "1": [0.02]}).items
    assert items[1].rows == [["0", "1.00"], ["1", "2.00"]]


def test_blocks_and_heads_are_numbered_as_in_a_conversion() -> None:
    one = seed([0.01, 0.02]) | {"accuracy": {}}
    for need in one["ranked"]:
        need |= {"head": 3, "stderr": 0.0}
    numbers = {"mean": {"drop": [0.01, 0.02]}, "seeds": [one]}
    heads = ranking_section(ContentHeadsConfig(seeds=1), numbers, {"0": [0.01], "1": [0.02]}).items[2]
    assert [row[1:3] for row in heads.rows] == [["0", "3"], ["1", "3"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("content-heads") / "run"
    cli.main(["run", "content-heads", "--smoke", "--jobs", "1", "--out", str(out)])
    return out


def test_every_head_of_every_seed_is_converted_by_itself(run: Path) -> None:
    heads = json.loads((run / "result.json").read_text())["heads"]
    assert len(heads["seeds"]) == 2
    for one in heads["seeds"]:
        drops = [need["drop"] for need in one["ranked"]]
        assert drops == sorted(drops)
        assert {(need["block"], need["head"]) for need in one["ranked"]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert all(0 < need["positionality"] <= 1 for need in one["ranked"])
        assert any(need["test_loss"] != 0 for need in one["ranked"])
        first, last = one["accuracy"].values()
        assert len(first) == len(last) == 5
        assert first[0] == last[0] > 0.2  # it learned something
        assert first[-1] == pytest.approx(last[-1])  # all heads, in either order
    assert heads["mean"]["drop"] == sorted(heads["mean"]["drop"])


def test_the_page_answers_both_questions(run: Path) -> None:
    html = (run / "report.html").read_text()
    assert "most expensive first" in html
    assert "most positional" not in html
    assert "rank correlation with positionality" in html

"""Sections as plain data: their places, and the numbers found there."""

import pytest

from posattn.runs.page import (
    HeatMaps,
    Lines,
    Section,
    Table,
    lookup,
    mean_lines,
    mean_table,
    printable,
    to_plain,
)
from posattn.runs.seeds import over_seeds


def test_places_are_below_their_section() -> None:
    lines = Lines("", "t", {"loss": "history.loss"}, {"loss": "history.std"})
    heat = HeatMaps("", "values", "x", "y", ["a"])
    placed, plain = to_plain(
        [Section("", "", [lines, heat, Table("", ["x"], [])], at="flow"), Section("", "", [lines])]
    )
    assert placed["items"][0]["x"] == "flow.t"
    assert placed["items"][0]["y"] == {"loss": "flow.history.loss"}
    assert placed["items"][0]["std"] == {"loss": "flow.history.std"}
    assert placed["items"][1]["values"] == "flow.values"
    assert placed["items"][2]["columns"] == ["x"]
    assert plain["items"][0]["x"] == "t"
    assert "at" not in placed


def test_a_value_is_found_under_names_with_dots() -> None:
    numbers = {"targets": {"my.set": {"x.y": [1, 2]}, "my": {"set": 3}}, "a": {"b": 4}}
    assert lookup(numbers, "a.b") == 4
    assert lookup(numbers, "targets.my.set.x.y") == [1, 2]
    with pytest.raises(KeyError, match=r"nothing at 'a\.b\.c'"):
        lookup(numbers, "a.b.c")
    with pytest.raises(KeyError, match="nothing at 'ab'"):
        lookup(numbers, "ab")


@pytest.mark.parametrize("place", ["*.ViT", "accuracy.*.ViT"])
def test_curves_of_means_find_their_numbers(place: str) -> None:
    tree = over_seeds([{"ViT": [1.0, 2.0]}, {"ViT": [3.0, 2.0]}])
    numbers = {"x": [1, 2], **tree, "accuracy": tree}
    figure = mean_lines("title", "x", {"a model": place}, "epoch", "accuracy", x_log=True)
    (plain,) = to_plain([Section("", "", [figure], at="below")])
    result, item = {"below": numbers}, plain["items"][0]
    assert item["x_log"]
    assert lookup(result, item["x"]) == [1, 2]
    assert lookup(result, item["y"]["a model"]) == [2.0, 2.0]
    assert lookup(result, item["std"]["a model"]) == pytest.approx([2**0.5, 0.0])


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("\x1b[31mred\r\0 \u202egpj.exe \udce9") == r"\x1b[31mred\r\x00 \u202egpj.exe \udce9"
    assert printable("é ± 猫🐱 \tend\n") == "é ± 猫🐱 \tend\n"


def test_a_table_of_means_has_a_row_per_label() -> None:
    rows = {"ViT": ([0.5, 0.7], [0.25, 0.25]), "other": ([1.0], [0.0])}
    table = mean_table("title", ["", "accuracy", "loss"], rows, digits=1, factor=100)
    assert table.columns == ["", "accuracy", "loss"]
    assert table.rows == [["ViT", "60.0 ± 14.1", "25.0 ± 0.0"], ["other", "100.0", "0.0"]]

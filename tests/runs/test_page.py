from posattn.runs.page import HeatMaps, Lines, Section, Table, to_plain


def test_places_are_below_their_section() -> None:
    lines = Lines("", "t", {"loss": "history.loss"}, {"loss": "history.std"})
    heat = HeatMaps("", "values", "x", "y", ["a"])
    placed, plain = to_plain(
        [Section("", "", [lines, heat, Table("", ["x"], [])], at="flow"), Section("", "", [lines])]
    )
    assert placed["items"][0]["x"] == "flow.t"
    assert placed["items"][0]["y"] == {"loss": "flow.history.loss"}
    assert placed["items"][0]["spread"] == {"loss": "flow.history.std"}
    assert placed["items"][1]["values"] == "flow.values"
    assert placed["items"][2]["columns"] == ["x"]
    assert plain["items"][0]["x"] == "t"
    assert "at" not in placed

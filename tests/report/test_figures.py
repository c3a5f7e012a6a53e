"""Figures show the numbers they are given, and every kind of item is rendered."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
import torch

from posattn.page import Gallery, GridMaps, Lines, Maps, Section, Table, lookup, to_plain
from posattn.records import open_run
from posattn.report import figures
from posattn.report.html import PREPARE, build_report


def pixels(address: str) -> np.ndarray:
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return matplotlib.image.imread(io.BytesIO(content), format="png")[..., :3]


def test_a_frame_has_a_pixel_an_entry_and_orders_them() -> None:
    shown = pixels(figures.frame(np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]]))).sum(-1)
    assert shown.shape == (2, 3)
    assert shown[0, 0] < shown[0, 1] < shown[0, 2] == shown[1, 0]


def test_a_constant_map_is_drawn_without_warnings() -> None:
    assert np.ptp(pixels(figures.frame(np.ones((3, 3)))).reshape(-1, 3), axis=0).max() == 0


def test_a_map_of_maps_puts_each_query_at_its_place() -> None:
    H, W = 2, 3
    map_ = np.full((H * W, H * W), 1e-3)
    map_[4, 2] = 1.0  # the query at row 1, column 1 looks at row 0, column 2
    laid = figures.map_of_maps(map_, (H, W))
    assert laid.shape == (H * (H + 1) - 1, W * (W + 1) - 1)
    tile = laid[1 * (H + 1) :, 1 * (W + 1) :][:H, :W]
    assert tile.argmax() == 2
    assert tile[0, 2] == 1.0


def test_lines_are_whole_svg_in_the_colour_of_the_page() -> None:
    spec = {"x_label": "N < 5 & more", "y_label": "", "x_log": True, "y_log": True}
    series = {"x": {"x": [8, 32]}, "y": {"a": [0.5, 0.9], "b": [0.4, 0.5]}, "spread": {"a": [0.1, 0.2]}}
    svg = figures.lines(spec, series)
    assert "N < 5 & more" in "".join(ElementTree.fromstring(svg).itertext())
    assert "currentColor" in svg
    assert figures.INK not in svg


def test_many_points_have_a_band_for_their_spread_and_few_have_bars() -> None:
    spec = {"x_label": "", "y_label": "", "x_log": True, "y_log": False}
    svgs = []
    for count in (figures.FEW, figures.FEW + 1):
        numbers = list(range(1, count + 1))
        svgs.append(figures.lines(spec, {"x": {"x": numbers}, "y": {"a": numbers}, "spread": {"a": numbers}}))
    assert ["FillBetweenPolyCollection" in svg for svg in svgs] == [False, True]


@dataclass(frozen=True)
class Config:
    seed: int = 0


def test_every_kind_of_item_is_rendered_and_text_is_escaped(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    run.save_tensors("maps", {"m": torch.rand(3, 4, 4)})
    items = [
        Lines("Curve", "toy.x", {"y": "toy.y"}),
        Maps("Stepped", "maps:m", ["one", "two", "three"]),
        GridMaps("Grid", "maps:m", (2, 2), ["a", "b", "c"]),
        Gallery("Side by side", "maps:m", ["a", "b", "c"]),
        Table("Numbers", ["<b>", "value"], [["<script>alert(1)</script>", "1"]]),
    ]
    assert {item.kind for item in items} == PREPARE.keys()
    page = to_plain([Section("Toy", "A claim.", items)])
    run.finish({"title": "Toy", "summary": "s", "toy": {"x": [1, 2], "y": [3.0, 4.0]}, "page": page})
    html = build_report(run.path).read_text()
    assert html.count("data:image/png") == 9
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert 'max="2"' in html


def test_a_page_needs_a_finished_run(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    with pytest.raises(ValueError, match="an unfinished run"):
        build_report(run.path)


def test_a_place_without_a_number_is_named() -> None:
    assert lookup({"a": {"b": 3}}, "a.b") == 3
    with pytest.raises(KeyError, match=r"a\.c"):
        lookup({"a": {"b": 3}}, "a.c")

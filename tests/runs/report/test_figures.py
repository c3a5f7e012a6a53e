"""Figures show the numbers they are given, and every kind of item is rendered."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
import torch

from posattn.runs.folder import open_run
from posattn.runs.page import (
    Gallery,
    GridMaps,
    HeatMaps,
    Lines,
    Maps,
    PictureRows,
    Section,
    Table,
    lookup,
    mean_lines,
    to_plain,
)
from posattn.runs.report import figures
from posattn.runs.report.html import PREPARE, build_report
from posattn.runs.seeds import over_seeds


def pixels(address: str) -> np.ndarray:
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return matplotlib.image.imread(io.BytesIO(content), format="png")[..., :3]


def test_a_frame_has_a_pixel_an_entry_and_orders_them() -> None:
    shown = pixels(figures.frame(np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]]))).sum(-1)
    assert shown.shape == (2, 3)
    assert shown[0, 0] < shown[0, 1] < shown[0, 2] == shown[1, 0]


def test_a_constant_map_is_drawn_without_warnings() -> None:
    assert np.ptp(pixels(figures.frame(np.ones((3, 3)))).reshape(-1, 3), axis=0).max() == 0


def test_a_strip_shows_pictures_side_by_side_with_clear_gaps() -> None:
    pictures = np.arange(2 * 3 * 4 * 8, dtype=np.uint8).reshape(2, 3, 4, 8)
    row = figures.strip(pictures)
    assert row.shape == (4, 17, 4)
    assert np.array_equal(row[:, 9:, :3], pictures[1].transpose(1, 2, 0))
    assert (row[:, 8, 3] == 0).all()
    assert (np.delete(row, 8, axis=1)[..., 3] == 255).all()
    grey = figures.strip(pictures[:, :1])
    assert np.array_equal(grey[:, :8, 2], pictures[0, 0])


def test_a_map_of_maps_puts_each_query_at_its_place() -> None:
    H, W = 2, 3
    map_ = np.full((H * W, H * W), 1e-3)
    map_[4, 2] = 1.0  # the query at row 1, column 1 looks at row 0, column 2
    laid = figures.map_of_maps(map_, (H, W))
    assert laid.shape == (H * (H + 1) - 1, W * (W + 1) - 1)
    tile = laid[1 * (H + 1) :, 1 * (W + 1) :][:H, :W]
    assert tile.argmax() == 2
    assert tile[0, 2] == 1.0


def test_a_patch_that_looks_nowhere_is_dark() -> None:
    maps = np.eye(6)
    maps[4] = 0
    laid = figures.map_of_maps(maps, (2, 3))
    assert np.isfinite(laid).all()
    assert laid.sum() == 5


def test_lines_are_whole_svg_in_the_colour_of_the_page() -> None:
    spec = {"x_label": "N < 5 & more", "y_label": "", "x_log": True, "y_log": True}
    series = {
        "x": {"a": [8, 32], "b": [8, 32]},
        "y": {"a": [0.5, 0.9], "b": [0.4, 0.5]},
        "std": {"a": [0.1, 0.2]},
    }
    svg = figures.lines(spec, series)
    assert "N < 5 & more" in "".join(ElementTree.fromstring(svg).itertext())
    assert "currentColor" in svg
    assert figures.INK not in svg


@pytest.mark.parametrize("nothing", [None, math.nan, 0.0])
def test_curves_without_a_number_above_zero_have_no_logarithmic_axes(nothing: float | None) -> None:
    """As the samples needed for an accuracy that no way of `transfer` reached: its finished run had no page."""
    spec = {"x_label": "", "y_label": "N", "x_log": True, "y_log": True}
    places = {"x": {"a": [8, 32]}, "y": {"a": [nothing, nothing]}, "std": {}}
    assert "N" in "".join(ElementTree.fromstring(figures.lines(spec, places)).itertext())


def test_a_label_has_one_colour_in_all_figures() -> None:
    first, second, third, *_ = figures.COLOURS
    assert figures.colours_of([["ViT", "a", "b"], ["b", "a"], ["c", "b"], ["d"]]) == {
        **{"ViT": first, "a": second, "b": third},
        **{"c": first, "d": first},  # free where they are shown
    }
    many = [str(number) for number in range(2 * len(figures.COLOURS))]
    assert list(figures.colours_of([many]).values()) == figures.COLOURS * 2
    assert len(figures.colours_of([many[: len(figures.COLOURS)], many])) == len(many)


def test_curves_and_bands_have_the_colour_of_their_label() -> None:
    many = list(range(figures.FEW + 1))
    spec = {"x_label": "", "y_label": "", "x_log": False, "y_log": False, "colours": {"a": "#123456"}}
    svg = figures.lines(spec, {"x": {"a": many}, "y": {"a": many}, "std": {"a": many}})
    assert svg.count("#123456") >= 2
    assert not any(colour in svg for colour in figures.COLOURS)


def test_many_points_have_a_band_for_their_spread_and_few_have_bars() -> None:
    spec = {"x_label": "", "y_label": "", "x_log": True, "y_log": False}
    svgs = []
    for count in (figures.FEW, figures.FEW + 1):
        numbers = list(range(1, count + 1))
        svgs.append(figures.lines(spec, {"x": {"a": numbers}, "y": {"a": numbers}, "std": {"a": numbers}}))
    assert ["PolyCollection" in svg for svg in svgs] == [False, True]


def test_a_single_seed_has_no_bars() -> None:
    """Its standard deviation is not known; bars of length 0 would say that seeds agree."""
    spec = {"x_label": "", "y_label": "", "x_log": False, "y_log": False}
    for count in (figures.FEW, figures.FEW + 1):
        loss = over_seeds([list(range(count))])
        places = {"x": {"a": list(range(count))}, "y": {"a": loss["mean"]}, "std": {"a": loss["std"]}}
        svg = figures.lines(spec, places)
        assert "LineCollection" not in svg
        assert "PolyCollection" not in svg
    assert "with several seeds" in mean_lines("", "x", {"a": "*"}, "", "").caption


def test_heat_maps_draw_a_cell_a_value_and_the_line_between_its_columns() -> None:
    spec = {"panels": ["σ = 1", "σ < 2"], "x_label": "x", "y_label": "y", "line": 2.0}
    values = np.arange(12.0).reshape(2, 2, 3)
    svg = figures.heat_maps(spec, values, [1.0, 2.0, 4.0], [0.0, 5.0])
    tree = ElementTree.fromstring(svg)
    assert {"σ = 1", "σ < 2"} <= {
        "".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")
    }
    assert svg.count("stroke-dasharray") == 2
    cells = [group for group in tree.iter() if group.get("id", "").startswith("QuadMesh")]
    assert [len(group) for group in cells[:2]] == [6, 6]
    assert "stroke-dasharray" not in figures.heat_maps({**spec, "line": None}, values, [1, 2, 4], [0, 5])


@dataclass(frozen=True)
class Config:
    seed: int = 0


def test_every_kind_of_item_is_rendered_and_text_is_escaped(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "toy", Config())
    run.save_tensors("maps", {"m": torch.rand(3, 4, 4), "p": torch.zeros(2, 3, 1, 4, 4)})
    items = [
        Lines("Curve", "toy.x", {"y": "toy.y"}),
        Maps("Stepped", "maps:m", ["one", "two", "three"]),
        GridMaps("Grid", "maps:m", (2, 2), ["a", "b", "c"]),
        Gallery("Side by side", "maps:m", ["a", "b", "c"]),
        PictureRows("Photographs", "maps:p", ["before", "after"]),
        HeatMaps("Heat", "toy.heat", "toy.x", "toy.y", ["left"], line=1.5),
        Table("Numbers", ["<b>", "value"], [["<script>alert(1)</script>", "1"]]),
    ]
    assert {item.kind for item in items} == PREPARE.keys()
    page = to_plain([Section("Toy", "A claim.", items)])
    run.finish(
        {
            "title": "Toy",
            "summary": "s",
            "toy": {"x": [1, 2], "y": [3.0, 4.0], "heat": [[[0, 1], [2, 3]]]},
            "page": page,
        }
    )
    html = build_report(run.path).read_text()
    assert html.count("data:image/png") == 12  # nine maps, two rows of pictures, the heat map's scale
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

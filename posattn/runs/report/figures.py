"""Figures of a report: plain data in, inline SVG or small PNG frames out. This module computes no results."""

import base64
import io
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from posattn.runs.page import printable

INK = "#010203"  # drawn in this, then replaced by the page's own text colour
COLOURS = ["#3b7dd8", "#e07b39", "#2a9d6f", "#b5529c", "#8a8f98", "#c9a227"]  # legible on light and dark
COLOUR_MAP = "viridis"
PLAIN = "{x:.4g}"  # ticks of logarithmic axes: matplotlib's own, 10 to a power, are formulas that take long to draw
FEW = 14  # points up to which a curve shows each of them, and its std as bars instead of a band
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "posattn",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK),
}


def literal(text: str) -> str:
    """Text that matplotlib draws literally: dollars are escaped, and a leading underscore does not hide a label."""
    shown = printable(text).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def colours_of(figures: Iterable[Iterable[str]]) -> dict[str, str]:
    """A colour for each label, the same in all figures that have it. ``figures`` has the labels of each."""
    found: dict[str, str] = {}
    for labels in map(list, figures):
        taken = {found[label] for label in labels if label in found}
        free = cycle([colour for colour in COLOURS if colour not in taken] or COLOURS)
        found |= {label: next(free) for label in labels if label not in found}
    return found


def lines(spec: dict[str, Any], series: dict[str, dict[str, list[Any]]]) -> str:
    """An SVG of curves. ``series``: "x", "y" and "std" by label; a curve whose std are all 0 has no bars.

    Numbers that are None or NaN have no point.

    ``spec`` has a colour for each label under "colours" where other figures have them, too.
    """
    colours = spec.get("colours") or colours_of([series["y"]])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.4), layout="tight")  # measures the text once, "constrained" twice
        axes = figure.subplots()
        for label, y in series["y"].items():
            x, std = series["x"][label], series["std"].get(label)
            spread = std is not None and any(std)  # of a single seed all are 0
            style: dict[str, Any] = {"label": literal(label), "linewidth": 1.8, "color": colours[label]}
            if std is None or len(x) > FEW:
                axes.plot(x, y, **style)
            else:
                axes.errorbar(x, y, yerr=std if spread else None, marker="o", capsize=3, **style)
            if std is not None and spread and len(x) > FEW:
                band: dict[str, Any] = {"alpha": 0.25, "linewidth": 0, "color": colours[label]}
                axes.fill_between(x, np.subtract(y, std), np.add(y, std), **band)
        axes.set(xlabel=literal(spec["x_label"]), ylabel=literal(spec["y_label"]))
        if spec["x_log"] and some_above_zero(series["x"]):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(PLAIN)
            ticks = sorted({place for of in series["x"].values() for place in of})
            if len(ticks) <= FEW:
                axes.set_xticks(ticks, [f"{x:.4g}" for x in ticks])
                axes.minorticks_off()
        if spec["y_log"] and some_above_zero(series["y"]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PLAIN)
        axes.grid(alpha=0.25)
        if len(series["y"]) > 1:
            axes.legend(frameon=False)
        return to_svg(figure)


def some_above_zero(curves: dict[str, list[Any]]) -> bool:
    """Whether any number of the curves can be shown on a logarithmic axis: None and NaN cannot."""
    return any(number is not None and number > 0 for curve in curves.values() for number in curve)


def heat_maps(spec: dict[str, Any], values: NDArray[np.floating], x: list[float], y: list[float]) -> str:
    """An SVG of (panels, rows, columns) side by side on one colour scale; every row and column takes equal room.

    Entries that are NaN stay empty.
    """
    width = 1.2 + 2.9 * len(values)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 3.4), layout="constrained")
        panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
        scale = {"vmin": np.nanmin(values), "vmax": np.nanmax(values), "cmap": COLOUR_MAP}
        for axes, label, panel in zip(panels, spec["panels"], values, strict=True):
            mesh = axes.pcolormesh(panel, **scale)
            axes.set(title=literal(label), xlabel=literal(spec["x_label"]))
            axes.set_xticks(np.arange(len(x)) + 0.5, [f"{place:.3g}" for place in x], rotation=45)
            axes.set_yticks(np.arange(len(y)) + 0.5, [f"{place:.3g}" for place in y])
            if spec["line"] is not None:
                axes.axvline(
                    np.interp(spec["line"], x, np.arange(len(x)) + 0.5), color="white", linestyle="--"
                )
        panels[0].set_ylabel(literal(spec["y_label"]))
        figure.colorbar(mesh, ax=panels)
        return to_svg(figure)


def frame(image: NDArray[np.floating], colour_map: str = COLOUR_MAP) -> str:
    """A small PNG with one pixel per entry, as a data URL; the maximum is brightest."""
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    pixels = (matplotlib.colormaps[colour_map](scaled)[..., :3] * 255).astype(np.uint8)
    return png(pixels)


def png(pixels: NDArray[np.uint8]) -> str:
    """(H, W) grey, (H, W, 3) or (H, W, 4) pixels as the data URL of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def strip(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, c, H, W) grey or colour pictures side by side, as (H, width, 4) pixels with clear gaps."""
    n, _, H, W = pictures.shape
    gap = max(1, W // 8)
    row = np.zeros((H, n, W + gap, 4), np.uint8)
    row[:, :, :W, :3] = pictures.transpose(2, 0, 3, 1)  # repeat a single channel
    row[:, :, :W, 3] = 255
    return row.reshape(H, -1, 4)[:, :-gap]


def map_of_maps(map_: NDArray[np.floating], grid: tuple[int, int]) -> NDArray[np.floating]:
    """Where every patch of an (H, W) grid looks, laid out over the grid: each tile is one query's row.

    Every tile is scaled to its own maximum and framed by one dark pixel.
    """
    H, W = grid
    peaks = map_.max(-1)
    tiles = map_.reshape(H, W, H, W) / np.where(peaks > 0, peaks, 1).reshape(H, W, 1, 1)
    framed = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)))
    return framed.transpose(0, 2, 1, 3).reshape(H * (H + 1), W * (W + 1))[:-1, :-1]


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element that takes the page's text colour."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"])
    )
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")

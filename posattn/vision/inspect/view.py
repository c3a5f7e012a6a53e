"""The HTML view of an inspection in notebooks: a grid of layers and heads for each measure, without scripts."""

import math
from html import escape

import matplotlib
import pandas as pd

COLOUR_MAP = "viridis"
DECIMALS = range(2, 5)
CELL = "padding:2px 6px;text-align:right;font-variant-numeric:tabular-nums;border:0"


def grids_html(table: pd.DataFrame) -> str:
    """The measures of each head as coloured cells, rows layers and columns heads; the first measure is open."""
    heads = table[table["head"] >= 0]
    names = [name for name in heads.measure.unique() if heads[heads.measure == name].value.notna().any()]
    grids = [
        f"<details{' open' if place == 0 else ''}><summary>{escape(name)}: {span(values)}</summary>"
        f"{grid_html(values)}</details>"
        for place, name in enumerate(names)
        if len(values := heads[heads.measure == name])
    ]
    images = f", over {table.attrs['images']:,} images" if "images" in table.attrs else ""
    return f"<div><p>Attention by layer (rows) and head (columns){images}.</p>{''.join(grids)}</div>"


def span(values: pd.DataFrame) -> str:
    """The range of a measure in words."""
    decimals = decimals_of(values)
    return f"{number(values.value.min(), decimals)} to {number(values.value.max(), decimals)}"


def decimals_of(values: pd.DataFrame) -> int:
    """Decimals that tell a tenth of the range of a measure apart, so that cells of other colours differ."""
    wide = float(values.value.max() - values.value.min())
    return max(DECIMALS[0], min(DECIMALS[-1], math.ceil(1 - math.log10(wide)))) if wide > 0 else DECIMALS[0]


def number(value: float, decimals: int) -> str:
    """A rounded number, whose zero has no sign."""
    return f"{value:z.{decimals}f}"


def grid_html(values: pd.DataFrame) -> str:
    """One measure of all heads; the standard error is the tooltip of a cell."""
    low, high = values.value.min(), values.value.max()
    width, decimals = int(values["head"].max()) + 1, decimals_of(values)
    top = "".join(f'<th style="{CELL}">{head}</th>' for head in range(width))
    rows = [f"<tr><th></th>{top}</tr>"]
    for layer, group in values.groupby("layer"):
        cells = "".join(
            cell_html(value, error, low, high, decimals)
            for value, error in zip(group.value, group.stderr, strict=True)
        )
        rows.append(f'<tr><th style="{CELL}">{layer}</th>{cells}</tr>')
    return f'<div style="overflow-x:auto"><table style="width:auto">{"".join(rows)}</table></div>'


def cell_html(value: float, error: float, low: float, high: float, decimals: int) -> str:
    """A cell, dark where the value is the least and bright where it is the largest."""
    if pd.isna(value):
        return f'<td style="{CELL}">–</td>'
    share = (value - low) / (high - low) if high > low else 0.5
    colour = matplotlib.colors.to_hex(matplotlib.colormaps[COLOUR_MAP](share))
    ink = "#000" if share > 0.55 else "#fff"
    style = f"{CELL};background:{colour};color:{ink}"
    return f'<td style="{style}" title="{value:.4g} ± {error:.2g}">{number(value, decimals)}</td>'

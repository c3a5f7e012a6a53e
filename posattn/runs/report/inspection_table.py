"""The numbers of an inspection as a section of its export: heat maps and a table."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from posattn.runs.folder import RunFolder
from posattn.runs.page import HeatMaps, Section, Table
from posattn.runs.report import figures
from posattn.runs.report.inspection import MEASURES, by_head

NONE = "–"
UNIFORM = "uniform map, or chance"
DRAWN = ("positionality", "distance")


def section(run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    """Heat maps of two measures; a table of all ± standard error by layer and head, after those of a uniform map."""
    table = pd.read_parquet(run.checked("table.parquet"))
    shown = [name for name in MEASURES if (table.measure == name).any()]
    rows = [
        [str(layer), str(head), *(with_error(row.get(name)) for name in shown)]
        for (layer, head), row in by_head(table).items()
    ]
    caption = "Value ± standard error over images. All numbers, also those of whole layers, are in table.csv."
    columns = ["layer", "head", *(MEASURES[name][0] for name in shown)]
    item = Table("Heads", columns, [*uniform_rows(result, shown), *rows], caption)
    claim = f"{len(rows)} heads on {result['images']:,} images."
    whole = asdict(Section("Every head", claim, [item]))
    drawn = [name for name in DRAWN if table.value[table.measure == name].notna().any()]
    return {**whole, "items": [heat_map(table, name) for name in drawn] + whole["items"]}


def heat_map(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """A measure by layer and head."""
    title, meaning = MEASURES[name]
    chosen = table[(table.measure == name) & (table["head"] >= 0)]
    values = chosen.pivot(index="layer", columns="head", values="value")
    item = asdict(
        HeatMaps(title, "", "", "", [title], "head", "layer", caption=f"{meaning[0].upper()}{meaning[1:]}.")
    )
    heads, layers = ([float(number) for number in axis] for axis in (values.columns, values.index))
    svg = figures.heat_maps(item, values.to_numpy()[None], heads, layers)
    return {**item, "svg": svg}


def uniform_rows(result: dict[str, Any], shown: list[str]) -> list[list[str]]:
    """The measures of a uniform map: in one row if all layers have the same."""
    references = dict(zip(map(str, result["numbers"]), result["references"], strict=True))
    if all(each == result["reference"] for each in references.values()):
        references = {"all": result["reference"]}
    return [
        [layer, UNIFORM, *(f"{each[name]:.3f}" if name in each else NONE for name in shown)]
        for layer, each in references.items()
    ]


def with_error(found: tuple[float, float] | None) -> str:
    """A value ± its standard error, which may be unknown (NaN); a dash where there is no value."""
    if found is None or found[0] != found[0]:
        return NONE
    value, error = found
    return f"{value:.3f}" if error != error else f"{value:.3f} ± {error:.2g}"

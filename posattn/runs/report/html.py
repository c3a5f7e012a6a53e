"""One self-contained HTML page made from a finished run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from posattn.runs.environment import made_on
from posattn.runs.folder import REPORT, RunFolder, write_whole
from posattn.runs.page import lookup, printable
from posattn.runs.record import RESULT
from posattn.runs.report import figures


def build_report(folder: Path) -> Path:
    """Write report.html from the files of a run folder, without retraining; returns its path.

    Raises ValueError if the folder holds no finished run, or one that is not whole or of another version.
    """
    run = RunFolder.reading(folder)
    config, result = run.config, run.result
    template, context = "report.html", {}
    with known_form(run):
        if result.get("kind") == "inspection":
            from posattn.runs.report import inspection  # it needs pandas, other pages do not

            template, context = "inspection.html", inspection.context(run, result)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posattn.runs.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with known_form(run):
        html = environment.get_template(template).render(
            config=config,
            result=result,
            made_on=made_on(run),
            sections=prepared_sections(run),
            **context,
        )
    write_whole(folder / REPORT, printable(html).encode())
    return folder / REPORT


@contextmanager
def known_form(run: RunFolder) -> Iterator[None]:
    """Errors in reading what another version, or another program, wrote into a run as ValueError naming the folder."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, jinja2.TemplateError) as error:
        raise ValueError(
            f"{run.path}: {RESULT} and config.json are not of a form that this version reads "
            f"({type(error).__name__}: {error})"
        ) from error


def prepared_sections(run: RunFolder) -> list[dict[str, Any]]:
    """The sections of a finished run's page, with the figures drawn: ``svg``, or PNG ``images`` as data URLs.

    A label has one colour in all figures of a section.
    """
    result = run.result
    return [
        {**section, "items": [_item(item, run, result) for item in coloured(section["items"])]}
        for section in result["page"]
    ]


def coloured(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of a section, those with curves with the colour of each label."""
    colours = figures.colours_of(item["y"] for item in items if item["kind"] == "lines")
    return [{**item, "colours": colours} if item["kind"] == "lines" else item for item in items]


def _item(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    return {**item, **PREPARE[item["kind"]](item, run, result)}


def _lines(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    places = item["x"] if isinstance(item["x"], dict) else dict.fromkeys(item["y"], item["x"])
    axes = {"x": places, "y": item["y"], "std": item["std"]}
    series = {axis: {k: lookup(result, place) for k, place in of.items()} for axis, of in axes.items()}
    return {"svg": Markup(figures.lines(item, series))}  # our own SVG, its text escaped by matplotlib


def _maps(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    maps = _tensor(item["tensor"], run)
    maps = maps[None] if maps.ndim == 2 else maps
    return {"images": [figures.frame(map_) for map_ in maps]}


def _grid_maps(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    H, W = item["grid"]
    maps = _tensor(item["tensor"], run)
    return {"images": [figures.frame(figures.map_of_maps(map_, (H, W))) for map_ in maps]}


def _pictures(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    rows = _tensor(item["tensor"], run).astype(np.uint8)
    return {"images": [figures.png(figures.strip(pictures)) for pictures in rows]}


def _heat_maps(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    values, x, y = (lookup(result, item[name]) for name in ("values", "x", "y"))
    return {"svg": Markup(figures.heat_maps(item, np.array(values, float), x, y))}


def _tensor(place: str, run: RunFolder) -> Any:
    file, _, name = place.partition(":")
    return run.load_arrays(file)[name].astype(np.float64)


def _nothing(item: dict[str, Any], run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    return {}


PREPARE = {
    "lines": _lines,
    "maps": _maps,
    "grid_maps": _grid_maps,
    "gallery": _maps,
    "pictures": _pictures,
    "heat_maps": _heat_maps,
    "table": _nothing,
}

"""Tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from posattn.runs.page import printable

WIDEST = 100_000  # columns of a terminal without end
BORDERS = 3  # characters of a column beside its content


def table(item: dict[str, Any], out: Console) -> Table:
    """A table of a page. It is wider than the terminal where its longest words do not fit: no number loses digits."""
    columns = [list(map(text, cells)) for cells in zip(item["columns"], *item["rows"], strict=True)]
    borders = BORDERS * len(columns) + 1
    found = widths([extremes(cells, out) for cells in columns], out.width - borders)
    shown = Table(width=sum(found) + borders)
    for (name, *_), width in zip(columns, found, strict=True):
        shown.add_column(name, width=width)
    for row in item["rows"]:
        shown.add_row(*map(text, row))
    return shown


def extremes(cells: list[str], out: Console) -> tuple[int, int]:
    """The widths of the longest word and of the longest cell of a column."""
    endless = out.options.update(max_width=WIDEST)
    sizes = [Measurement.get(out, endless, cell) for cell in cells]
    return max(size.minimum for size in sizes), max(size.maximum for size in sizes)


def widths(columns: list[tuple[int, int]], room: int) -> list[int]:
    """The width of each column: its least, and evenly more, up to its most, as far as there is room.

    rich makes columns narrower by the same amounts, and cuts words that are longer then.
    """
    found = [least for least, _ in columns]
    while short := [place for place, (_, most) in enumerate(columns) if found[place] < most]:
        if sum(found) + len(short) > room:
            break
        for place in short:
            found[place] += 1
    return found


def text(plain: str) -> str:
    """Plain text as rich's markup, without control characters."""
    return escape(printable(plain))

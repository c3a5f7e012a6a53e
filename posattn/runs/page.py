"""The content of a report as plain data: sections with a claim, figures and tables.

A figure refers to its numbers by their place in result.json, so that no number is stored twice, and to maps by file
and tensor ("structure:maps" in structure.safetensors). Places are relative to the section's ``at``: in a section at
"structure", "history.loss" is ``result["structure"]["history"]["loss"]``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from posattn.runs.seeds import mean_std_text

# the fields of each kind that hold places
PLACES = {
    "lines": ("x", "y", "std"),
    "heat_maps": ("values", "x", "y"),
}

# control characters but tabs and line ends, overrides of the writing direction, and bytes that are not UTF-8
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with escapes such as \\x1b in the place of characters that a terminal would obey."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class Item:
    """A figure or a table of a section."""


@dataclass(frozen=True)
class Lines(Item):
    """Curves, with a band or bars of one standard deviation where ``std`` names one."""

    title: str
    x: str | dict[str, str]  # place of a common x, or label -> place
    y: dict[str, str]  # label -> place
    std: dict[str, str] = field(default_factory=dict)  # label -> place
    x_label: str = ""
    y_label: str = ""
    x_log: bool = False
    y_log: bool = False
    caption: str = ""
    kind: str = "lines"


@dataclass(frozen=True)
class Maps(Item):
    """Square maps; several have a slider over the first axis."""

    title: str
    tensor: str  # "file:name", (frames, D, D) or (D, D)
    frames: list[str] = field(default_factory=list)  # one label per frame
    x_label: str = "key patch"
    y_label: str = "query patch"
    caption: str = ""
    kind: str = "maps"


@dataclass(frozen=True)
class GridMaps(Item):
    """For each head, where each patch of an (H, W) image grid looks: a map of maps."""

    title: str
    tensor: str  # "file:name", (heads, H*W, H*W)
    grid: tuple[int, int]
    labels: list[str] = field(default_factory=list)  # one label per head
    caption: str = ""
    kind: str = "grid_maps"


@dataclass(frozen=True)
class Gallery(Item):
    """Square maps side by side."""

    title: str
    tensor: str  # "file:name", (maps, D, D)
    labels: list[str] = field(default_factory=list)  # one label per map
    caption: str = ""
    kind: str = "gallery"


@dataclass(frozen=True)
class PictureRows(Item):
    """Rows of pictures, one under another."""

    title: str
    tensor: str  # "file:name", (rows, pictures, c, H, W) from 0 to 255
    labels: list[str] = field(default_factory=list)  # one label per row
    caption: str = ""
    kind: str = "pictures"


@dataclass(frozen=True)
class HeatMaps(Item):
    """Values over two axes, in panels with one colour scale."""

    title: str
    values: str  # place of (panels, rows, columns)
    x: str  # place of one number per column, increasing
    y: str  # place of one number per row
    panels: list[str]  # one label per panel
    x_label: str = ""
    y_label: str = ""
    line: float | None = None  # x of a vertical line
    caption: str = ""
    kind: str = "heat_maps"


@dataclass(frozen=True)
class Table(Item):
    """Rows of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Section:
    """A claim, in one sentence, and its evidence."""

    title: str
    claim: str
    items: Sequence[Item]
    at: str = ""
    """The place in result.json that the items' places are relative to"""


def mean_lines(
    title: str, x: str | dict[str, str], curves: Mapping[str, str], x_label: str, y_label: str, **options: Any
) -> Lines:
    """Curves of means over seeds with their standard deviations, as ``over_seeds`` gives them.

    Args:
        title: of the figure.
        x: place of the common x, or label -> place.
        curves: label -> place, with ``*`` for mean and std: "ViT.*.loss" for "ViT.mean.loss" and "ViT.std.loss".
        x_label: of the x axis.
        y_label: of the y axis.
        options: further fields of ``Lines``.
    """
    options.setdefault("caption", "Mean and, with several seeds, standard deviation over the seeds.")
    mean, std = (
        {label: place.replace("*", part) for label, place in curves.items()} for part in ("mean", "std")
    )
    return Lines(title, x, mean, std, x_label, y_label, **options)


def mean_table(
    title: str,
    columns: Sequence[str],
    rows: Mapping[str, Iterable[Sequence[float]]],
    digits: int = 3,
    factor: float = 1.0,
    caption: str = "Mean ± std over the seeds.",
) -> Table:
    """A cell shows ``mean ± std`` of its values times ``factor``; the label of a row is in the first column."""
    cells = {label: [mean_std_text(values, digits, factor) for values in row] for label, row in rows.items()}
    return Table(title, list(columns), [[label, *texts] for label, texts in cells.items()], caption)


def to_plain(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The sections as JSON, for result.json, with their places in full."""
    return [_placed(asdict(section)) for section in sections]


def _placed(section: dict[str, Any]) -> dict[str, Any]:
    """A plain section with its places in full."""
    if at := section.pop("at"):
        for item in section["items"]:
            for name in PLACES.get(item["kind"], ()):
                place = item[name]
                item[name] = (
                    {label: f"{at}.{below}" for label, below in place.items()}
                    if isinstance(place, dict)
                    else f"{at}.{place}"
                )
    return section


def lookup(numbers: dict[str, Any], place: str) -> Any:
    """The value at ``place`` ("a.b.c") in nested ``numbers``; names may hold dots. Raises KeyError naming the place."""
    value: Any = numbers
    rest = place
    while rest:
        known = value if isinstance(value, dict) else {}
        names = [name for name in known if f"{rest}.".startswith(f"{name}.")]
        if not names:
            raise KeyError(f"result.json has nothing at {place!r}")
        name = max(names, key=len)
        value, rest = value[name], rest[len(name) + 1 :]
    return value

"""What the page of `posattn compare` shows."""

from typing import Any

import numpy as np
import pandas as pd

from posattn.runs.page import Gallery, HeatMaps, Section, Table

ERRORS = 3  # standard errors from 0 beyond which a difference counts as one
IN_PIXELS = "distance_px"  # not shown: it is the distance in another unit
ROUNDING = 1e-6  # of float32, relative to the larger side or to 1: where attention is constant, errors are 0
LARGEST = 20  # rows of the table of differences
AXES: dict[str, Any] = {"x": "heads", "y": "layers", "x_label": "head", "y_label": "layer"}


def sections(numbers: dict[str, Any], table: pd.DataFrame, shown: int) -> list[Section]:
    """The differences in numbers, the ``shown`` heads that moved most, and each measure over layers and heads."""
    heads = table[(table["head"] >= 0) & (table.measure != IN_PIXELS)]
    return [differences(numbers, heads), *([maps(numbers)] if shown else []), *measures(numbers)]


def differences(numbers: dict[str, Any], heads: pd.DataFrame) -> Section:
    """How many heads differ in which measure, and the largest differences."""
    errors = in_errors(heads)
    clear, known = errors > ERRORS, errors.notna()
    first, second = numbers["names"]
    groups = (
        f"paired over {numbers['paired']} groups of the same images" if numbers["paired"] else "not paired"
    )
    claim = (
        f"{clear.sum()} of {known.sum()} differences between {second} and {first} are more than {ERRORS} standard "
        f"errors from 0; the errors are {groups}."
    )
    if unknown := (heads.difference.notna() & ~known).sum():
        claim += f" Of {unknown} more the error is not known: that takes three images of either side."
    tables = [means_table(heads, clear.where(known), first, second), largest_table(heads, first, second)]
    return Section("Differences", claim, tables)


def in_errors(heads: pd.DataFrame) -> pd.Series:
    """How many standard errors each difference is from 0, where errors are at least float32's rounding."""
    rounding = ROUNDING * heads[["a", "b"]].abs().max(axis=1).clip(lower=1)
    return heads.difference.abs() / heads.stderr.clip(lower=rounding)


def means_table(heads: pd.DataFrame, clear: pd.Series, first: str, second: str) -> Table:
    """Each measure on average over heads, and in how many heads it differs; ``clear`` is NaN where that is unknown."""
    rows = [
        [
            str(name),
            *(f"{group[key].mean():.3f}" for key in ("a", "b", "difference")),
            f"{found.sum():.0f}" if len(found := clear[group.index].dropna()) else "–",
        ]
        for name, group in heads.groupby("measure", sort=False)
    ]
    columns = ["measure", first, second, "difference", f"heads beyond {ERRORS} standard errors"]
    return Table("Means over all heads", columns, rows)


def largest_table(heads: pd.DataFrame, first: str, second: str) -> Table:
    """The differences that are most standard errors from 0, without those within one."""
    errors = in_errors(heads)
    order = errors[errors > 1].sort_values(ascending=False)
    rows = [
        [str(layer), str(head), measure, f"{a:.3f}", f"{b:.3f}", f"{difference:+.3f} ± {stderr:.2g}"]
        for layer, head, measure, a, b, difference, stderr in heads.loc[order.index[:LARGEST]].values
    ]
    caption = f"By standard errors from 0. All are in comparison.csv; a difference is {second} minus {first}."
    columns = ["layer", "head", "measure", first, second, "difference"]
    return Table("The clearest differences", columns, rows, caption)


def maps(numbers: dict[str, Any]) -> Section:
    """The average maps of the heads whose attention moved most."""
    first, second = numbers["names"]
    claim = "No head has maps among the same patches."
    if numbers["shown"]:
        layer, head, value = numbers["shown"][0]
        claim = f"Layer {layer}, head {head} moved most: {100 * value:.0f} % of its attention goes elsewhere."
    items = [
        Gallery(
            f"Layer {layer}, head {head}: {100 * value:.0f} % moved",
            f"maps:head.{place}",
            [
                f"{name}, row {row + 1}, column {column + 1}"
                for row, column in queries
                for name in (first, second)
            ],
            "Where a patch looks on average, by the square root of its attention.",
        )
        for place, ((layer, head, value), queries) in enumerate(
            zip(numbers["shown"], numbers["queries"], strict=True)
        )
    ]
    return Section("Heads side by side", claim, list(items))


def measures(numbers: dict[str, Any]) -> list[Section]:
    """Each measure over layers and heads, and its difference."""
    first, second = numbers["names"]
    return [
        Section(
            name.replace("_", " ").capitalize(),
            f"By layer and head; mean change {np.mean(grid['difference']):+.3f}.",
            [
                HeatMaps("Both", f"measures.{name}.values", panels=[first, second], **AXES),
                HeatMaps("Difference", f"measures.{name}.difference", panels=[f"{second} - {first}"], **AXES),
            ],
            at="compare",
        )
        for name, grid in numbers["measures"].items()
        if name != IN_PIXELS
    ]

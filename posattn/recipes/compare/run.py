"""What `posattn compare` does: two run folders of inspections in, a table of differences and a page out."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from posattn.recipes.compare.page import sections
from posattn.recipes.compare.settings import CompareConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.vision.inspect.compare import Side, among_patches, compare_sides, moved, side_of


def run(config: CompareConfig, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Compare the two inspections; the table goes into comparison.csv and comparison.parquet.

    Raises:
        ValueError: what ``compare`` raises.
    """
    a, b = side_of(config.a), side_of(config.b)
    table = compare_sides(a, b)
    folder.save("comparison.parquet", table.to_parquet(index=False))
    folder.save("comparison.csv", table.to_csv(index=False).encode())
    shown = most_moved(a, b, config.shown)
    if shown:
        folder.save_tensors("maps", {f"head.{i}": rows(a, b, *head) for i, head in enumerate(shown)})
    numbers = {
        "paired": table.attrs["paired"],
        "images": table.attrs["images"],
        "names": names(config),
        "layers": list(map(int, a.table.attrs["numbers"])),
        "heads": list(range(a.heads[0])),
        "measures": grids(table, a.heads),
        "shown": [[int(a.table.attrs["numbers"][layer]), head, value] for layer, head, value in shown],
        "queries": [queries(a.table.attrs["grids"][layer]) for layer, _, _ in shown],
    }
    return {
        "title": " and ".join(numbers["names"]),
        "summary": f"Inspections of {config.a} and {config.b}, head by head; standard errors are {errors_are(a, b)}.",
        "compare": numbers,
        "page": to_plain(sections(numbers, table, config.shown)),
    }


def errors_are(a: Side, b: Side) -> str:
    """How the standard errors are, and why."""
    if a.digest != b.digest or not a.digest:
        return "independent: the images differ"
    if len(a.without[0]) != len(b.without[0]):
        return "independent: the images are the same, but were summed in other groups (--memory)"
    return "paired: the images are the same"


def names(config: CompareConfig) -> list[str]:
    """What the sides are called: their folders' names, or their paths where these are the same."""
    short = [config.a.resolve().name, config.b.resolve().name]
    return short if short[0] != short[1] else [str(config.a), str(config.b)]


def most_moved(a: Side, b: Side, number: int) -> list[tuple[int, int, float]]:
    """The place of the layer, the head and the share that moved, of the heads whose square maps moved most."""
    found = [
        (layer, head, value)
        for layer, (values, maps) in enumerate(zip(moved(a, b), among_patches(a), strict=True))
        if maps.shape[1] == maps.shape[2]
        for head, value in enumerate(values.tolist())
    ]
    return sorted(found, key=lambda one: -one[2])[:number]


def queries(grid: list[int]) -> list[list[int]]:
    """The row and column of the patches whose attention is shown: in the middle, and between it and a corner."""
    H, W = grid
    return [[H // 2, W // 2], [H // 4, W // 4]]


def rows(a: Side, b: Side, layer: int, head: int, share: float) -> torch.Tensor:
    """The square root of where each of ``queries`` looks on average, on either side: (2·queries, H, W)."""
    H, W = grid = a.table.attrs["grids"][layer]
    maps = [among_patches(side)[layer][head].reshape(H, W, H, W) for side in (a, b)]
    shown = [map_[row, column] for row, column in queries(list(grid)) for map_ in maps]
    return torch.from_numpy(np.sqrt(np.stack(shown))).float()


def grids(table: pd.DataFrame, heads: list[int]) -> dict[str, Any]:
    """By measure, the values (2, layers, heads) of both sides and the differences (1, layers, heads).

    Only of measures that every head has, and where all layers have as many heads.
    """
    if len(set(heads)) > 1:
        return {}
    shape = (len(heads), heads[0])
    return {
        str(name): {
            "values": [group[side].to_numpy().reshape(shape).tolist() for side in ("a", "b")],
            "difference": [group.difference.to_numpy().reshape(shape).tolist()],
        }
        for name, group in table[table["head"] >= 0].groupby("measure", sort=False)
        if group[["a", "b"]].notna().all(axis=None)
    }

"""Two inspections side by side, head by head: differences with standard errors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posattn.runs.folder import RunFolder
from posattn.vision.inspect.average import AVERAGE_MEASURES
from posattn.vision.inspect.norms import NORM_MEASURES
from posattn.vision.inspect.results import Inspection
from posattn.vision.inspect.sums import IMAGE_MEASURES
from posattn.vision.inspect.tables import WHOLE

KEYS = ["layer", "head", "measure"]
OF_PATCHES = ("locality", "association", "profile_association")  # references that depend on radius and sets


@dataclass(frozen=True)
class Side:
    """One of two inspections: its table, the digest of its images, and by layer its average maps (h, Q, K) with the
    prefix tokens of queries and keys, its measures without each group of images in turn (G, k, h), and the same of
    the norms after its block (G, 2) where they are known."""

    table: pd.DataFrame
    digest: str
    maps: list[NDArray[Any]]
    prefix: list[tuple[int, int]]
    without: list[NDArray[Any]]
    norms: list[NDArray[Any] | None]
    sets: NDArray[np.bool_] | None = None  # of a partition, whether two patches share one

    @property
    def heads(self) -> list[int]:
        return [len(maps) for maps in self.maps]


def compare(a: Inspection | Path, b: Inspection | Path) -> pd.DataFrame:
    """The measures of the heads of two inspections, and their differences b - a.

    Where both saw the same images in as many groups, standard errors are paired: a jackknife of the difference over
    the groups, NaN for fewer than three images. Else they are those of independent images, √(stderr_a² + stderr_b²).

    Args:
        a, b: inspections, or run folders of ``posattn inspect``.

    Returns:
        A row for each layer, head and measure: columns layer, head, measure, a, b, difference, stderr.
        ``table.attrs`` holds ``paired`` (over how many groups; 0: not paired) and ``images`` (of either side).

    Raises:
        ValueError: their layers, heads or grids differ, or the radius or the partition; a folder holds no inspection.
    """
    return compare_sides(side_of(a), side_of(b))


def side_of(source: Inspection | Path) -> Side:
    """What is compared of an inspection or of its run folder."""
    if isinstance(source, Inspection):
        results = list(source.results.values())
        prefix = [(r.layout.queries.prefix, r.layout.keys.prefix) for r in results]
        maps, without = [r.average.numpy() for r in results], [r.without.numpy() for r in results]
        norms = [None if r.norms is None else r.norms[2].numpy() for r in results]
        sets = None if source.partition is None else source.partition.same.numpy()
        return Side(source.table(), source.digest, maps, prefix, without, norms, sets)
    run = RunFolder.reading(Path(source))
    if run.result.get("kind") != "inspection":
        raise ValueError(f"{source} holds no inspection, but a run of {run.config['recipe']}")
    arrays, result = run.load_arrays("maps"), run.result
    if "without.0" not in arrays:
        raise ValueError(
            f"{source} was inspected by an earlier version, which cannot be compared; inspect again"
        )
    layers = range(len(result["layers"]))
    prefix = [(q[2], k[2]) for q, k in zip(result["queries"], result["keys"], strict=True)]
    table = pd.read_parquet(run.checked("table.parquet"))
    maps = [arrays[f"average.{i}"].astype(np.float32) for i in layers]
    without = [arrays[f"without.{i}"] for i in layers]
    norms = [arrays.get(f"norms_without.{i}") for i in layers]
    return Side(table, result["images_digest"], maps, prefix, without, norms)


def compare_sides(a: Side, b: Side) -> pd.DataFrame:
    """``compare`` of two sides."""
    check_alike(a, b)
    table = a.table.merge(b.table, on=KEYS, suffixes=("_a", "_b"), validate="one_to_one")
    alike = a.digest == b.digest and a.digest != ""  # an interrupted inspection has none
    paired = alike and [len(w) for w in a.without] == [len(w) for w in b.without]
    table = table.rename(columns={"value_a": "a", "value_b": "b"})
    table["difference"] = table.b - table.a
    table["stderr"] = np.hypot(table.stderr_a, table.stderr_b)
    if paired:
        errors = paired_errors(a, b)
        keys = zip(*(table[key] for key in KEYS), strict=True)
        table["stderr"] = [errors.get(key, float("nan")) for key in keys]
    table = table[[*KEYS, "a", "b", "difference", "stderr"]]
    table.attrs = {
        "paired": len(a.without[0]) if paired else 0,
        "images": [a.table.attrs["images"], b.table.attrs["images"]],
    }
    return table


def check_alike(a: Side, b: Side) -> None:
    """ValueError, in one line, where two inspections have nothing to compare head by head."""
    mine, theirs = a.table.attrs, b.table.attrs
    for name, ours, others in (
        ("layers", mine["numbers"], theirs["numbers"]),
        ("heads by layer", a.heads, b.heads),
        ("grids by layer", list(map(list, mine["grids"])), list(map(list, theirs["grids"]))),
    ):
        if list(ours) != list(others):
            raise ValueError(f"the two inspections differ in their {name}: {ours} and {others}")
    for first, second in zip(mine["references"], theirs["references"], strict=True):
        for name in OF_PATCHES:
            if not np.isclose(first.get(name, 0.0), second.get(name, 0.0)):
                raise ValueError(
                    f"the two inspections differ in their radius or partition: a uniform map has {name} "
                    f"{first.get(name)} and {second.get(name)}"
                )
    first_sets, second_sets = (np.empty(0) if side.sets is None else side.sets for side in (a, b))
    if not np.array_equal(first_sets, second_sets):
        raise ValueError("the two inspections differ in their partition: their patches are in other sets")


def paired_errors(a: Side, b: Side) -> dict[tuple[int, int, str], float]:
    """Standard errors of the differences over the same groups of images, by layer, head and measure."""
    errors: dict[tuple[int, int, str], float] = {}
    measures = (*AVERAGE_MEASURES, *IMAGE_MEASURES)
    for number, *heads, first, second in zip(
        a.table.attrs["numbers"], a.without, b.without, a.norms, b.norms, strict=True
    ):
        for name, values in zip(measures, jackknife_of_difference(*heads), strict=True):
            errors.update({(number, head, name): value for head, value in enumerate(values.tolist())})
        if first is not None and second is not None:
            found = jackknife_of_difference(first, second)
            errors.update({(number, WHOLE, n): float(v) for n, v in zip(NORM_MEASURES, found, strict=True)})
    return errors


def jackknife_of_difference(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The standard error of a difference, from both sides' values without each group in turn."""
    change, groups = second - first, len(first)
    return np.sqrt((groups - 1) / groups * ((change - change.mean(0)) ** 2).sum(0))  # type: ignore[no-any-return]


def moved(a: Side, b: Side) -> list[NDArray[np.float64]]:
    """By layer, how much of each head's attention among patches goes elsewhere in b's average map than in a's.

    The total variation distance of the rows, normalised to sum to 1 and averaged over the queries: 0 alike, 1 apart.
    """
    pairs = zip(among_patches(a), among_patches(b), strict=True)
    return [0.5 * np.abs(first - second).sum(-1).mean(-1) for first, second in pairs]


def among_patches(side: Side) -> list[NDArray[np.float64]]:
    """The average maps (h, D, E) from patches to patches, their rows normalised."""
    maps = [m[:, q:, k:].astype(float) for m, (q, k) in zip(side.maps, side.prefix, strict=True)]
    return [m / m.sum(-1, keepdims=True).clip(1e-30) for m in maps]

"""The page of `posattn run speed`."""

from typing import Any

from posattn.bench.models import COMPILED, EAGER, PRODUCT
from posattn.bench.timing import Quartiles, quartiles
from posattn.runs.page import Lines, Section, Table

REFERENCE, OURS = "vit", ("positional", "relative", "hybrid", "pruned16", "pruned32")
WHOLE = "over timm's ViT-Tiny, each side at its better of eager and compiled"


def better(entry: dict[str, Any]) -> str:
    """The execution with the smaller median."""
    return min(executions(entry), key=lambda how: quartiles(entry[how]["seconds"]).median)


def executions(entry: dict[str, Any]) -> list[str]:
    """Of eager and compiled, those that were timed."""
    return [how for how in (EAGER, COMPILED) if how in entry]


def timed(cell: dict[str, Any], name: str) -> bool:
    """Whether a model of a cell was timed."""
    return bool(executions(cell.get(name, {})))


def failures(cell: dict[str, Any]) -> str:
    """What was not timed and why, as a sentence; empty if all was."""
    models = {name: entry.get("failed", {}) for name, entry in cell.items() if isinstance(entry, dict)}
    said = [f"{name} {how}: {why}" for name, failed in models.items() for how, why in failed.items()]
    return f" Not timed: {'; '.join(said)}." if said else ""


def ratios(config: Any, cells: dict[str, Any]) -> dict[str, Any]:
    """By mode and type, for each of our models over the sizes: how many times the reference's throughput it has.

    Medians of the ratios within each round, and half the interquartile range.
    """
    found: dict[str, Any] = {}
    for mode, size, dtype in config.cells:
        cell = cells.get(f"{mode} {size} {dtype}", {})
        lines = found.setdefault(f"{mode}, {dtype}", {})
        for name in [n for n in OURS if timed(cell, n) and timed(cell, REFERENCE)]:
            line = lines.setdefault(
                name, {"size": [], "ratio": [], "low": [], "high": [], "half": [], "counted": []}
            )
            of_time = throughput_ratio(cell[name], cell[REFERENCE])
            counted = cell[REFERENCE]["multiply_adds"] / cell[name]["multiply_adds"]
            half = (of_time.high - of_time.low) / 2
            for key, value in zip(line, (size, *of_time, half, counted), strict=True):
                line[key].append(value)
    return found


def throughput_ratio(entry: dict[str, Any], reference: dict[str, Any]) -> Quartiles:
    """The ratio of the two at their better execution, by round."""
    times = (one[better(one)]["seconds"] for one in (reference, entry))
    return quartiles([of_reference / own for of_reference, own in zip(*times, strict=True)])


def speed_sections(config: Any, numbers: dict[str, Any]) -> list[Section]:
    """The ratios, then the numbers behind them."""
    named = {" ".join(map(str, cell)): cell for cell in config.cells}
    cells = [(*named[name], cell) for name, cell in numbers["cells"].items()]
    return [ratio_section(numbers["ratios"]), *(cell_section(*cell) for cell in cells)]


def ratio_section(found: dict[str, Any]) -> Section:
    """The table of ratios, and a figure for each mode and type."""
    rows = [
        [how, name, f"{size} px", f"{ratio:.2f} ({low:.2f} to {high:.2f})", f"{counted:.2f}"]
        for how, lines in found.items()
        for name, line in lines.items()
        for size, ratio, low, high, counted in zip(
            *(line[key] for key in ("size", "ratio", "low", "high", "counted")), strict=True
        )
    ]
    figures = [
        Lines(
            f"Throughput over timm's ViT-Tiny: {how}",
            f"timing.ratios.{how}.{name}.size",
            {
                name: f"timing.ratios.{how}.{name}.ratio",
                "by multiply-adds": f"timing.ratios.{how}.{name}.counted",
            },
            {name: f"timing.ratios.{how}.{name}.half"},
            x_label="image, px",
            y_label="ratio",
            caption="Median over rounds; bars: half the interquartile range.",
        )
        for how, lines in found.items()
        for name in lines
        if name in OURS[:1] and len(lines[name]["size"]) > 1
    ]
    claim = f"Throughput {WHOLE}. " + "; ".join(map(best, found.items())) + "."
    columns = ["", "model", "image", "throughput ratio, median (quartiles)", "multiply-add ratio"]
    caption = ""
    if any("pruned" in name for lines in found.values() for name in lines):
        caption = (
            "Pruned models keep 16 or 32 entries of a row of untrained maps: they show speed, not accuracy."
        )
    return Section("Ratios", claim, [Table(f"Throughput {WHOLE}", columns, rows, caption), *figures])


def best(lines: tuple[str, dict[str, Any]]) -> str:
    """A mode and type as text."""
    how, by_name = lines
    if OURS[0] not in by_name:
        return f"{how}: nothing to compare"
    line = by_name[OURS[0]]
    sizes = ", ".join(
        f"{ratio:.2f} at {size} px" for size, ratio in zip(line["size"], line["ratio"], strict=True)
    )
    return f"{how}: {sizes}"


def cell_section(mode: str, size: int, dtype: str, cell: dict[str, Any]) -> Section:
    """All models at one mode, size and type."""
    title = f"{mode.capitalize()}, {size} px, {dtype}"
    if "peak" not in cell:  # no model could be built
        return Section(title, failures(cell).strip(), [])
    peak = 2 * PRODUCT**3 / quartiles(cell["peak"]).median
    models = {
        name: cell[name] for name, entry in cell.items() if isinstance(entry, dict) and timed(cell, name)
    }
    hows = [how for how in (EAGER, COMPILED) if any(how in entry for entry in models.values())]
    passes = 3 if mode == "training" else 1
    rows = [
        [
            name,
            *(per_second(entry[how]["seconds"], cell["batch"]) if how in entry else "–" for how in hows),
            f"{entry['multiply_adds'] / cell['batch'] / 1e6:,.0f}",
            f"{100 * share_of_peak(entry, peak, passes):.0f} %",
            *(f"{entry[how]['memory'] / 2**20:,.0f}" if how in entry else "–" for how in hows),
            f"{entry['parameters'] / 1e6:.1f}",
        ]
        for name, entry in models.items()
    ]
    columns = ["model", *(f"{how}, img/s" for how in hows), "MMAC", "share of peak"]
    columns += [*(f"{how}, MiB" for how in hows), "Mparams"]
    claim = (
        f"A batch of {cell['batch']}; the machine's own matrix product of side {PRODUCT} reached "
        f"{peak / 1e9:,.0f} GFLOP/s in the same rounds."
    )
    backward = ", a backward counted as two forwards" if passes == 3 else ""
    caption = (
        "Median (quartiles) over rounds. MMAC: 10⁶ multiply-adds of an image's forward. Share of peak: of the "
        f"matrix product, at the better execution{backward}. MiB: the most that torch held during the call beyond "
        f"weights, optimizer and images.{failures(cell)}"
    )
    return Section(title, claim, [Table(title, columns, rows, caption)])


def per_second(seconds: list[float], batch: int) -> str:
    """Images per second."""
    median, low, high = quartiles([batch / s for s in seconds])
    return f"{median:,.1f} ({low:,.1f} to {high:,.1f})"


def share_of_peak(entry: dict[str, Any], peak: float, passes: int) -> float:
    """Of the machine's own matrix product's rate, at the better execution."""
    seconds = quartiles(entry[better(entry)]["seconds"]).median
    return 2 * passes * entry["multiply_adds"] / seconds / peak

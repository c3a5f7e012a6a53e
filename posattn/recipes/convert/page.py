"""The page of `posattn convert`."""

from typing import Any

from posattn.recipes.convert.results import RECOVERY
from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.timing import CONVERTED, ORIGINAL
from posattn.runs.page import GridMaps, HeatMaps, Lines, Section, Table
from posattn.vision.convert.heads import KINDS
from posattn.vision.convert.orders import RANDOM

CONTENT = "by content"
NAMES = {
    "cosine": "cosine of the features",
    "neighbours": "overlap of the nearest neighbours",
    "accuracy": "accuracy",
    "divergence": "divergence of the class probabilities, nats",
}


def sections(config: ConvertConfig, numbers: dict[str, Any], grid: tuple[int, int]) -> list[Section]:
    """The conversion, its curves, the speed, and the heads."""
    return [
        conversion(config, numbers),
        curves(config, numbers),
        speed(numbers),
        head_map(config, numbers, grid),
    ]


def conversion(config: ConvertConfig, numbers: dict[str, Any]) -> Section:
    """The converted heads and their cost."""
    chosen, quality = numbers["chosen"], numbers["quality"]
    metric = numbers["metric"]
    last = quality[numbers["saved"]]
    ratios = ", ".join(
        f"{one['ratio'][0]:.2f} at {size} px" for size, one in numbers["speed"]["sizes"].items()
    )
    claim = (
        f"{chosen['heads']} of {chosen['of']} heads use constant maps; {NAMES[metric]}: "
        f"{last['kept'][metric]:.3f}{' of the original' if metric == 'accuracy' else ''}. "
        f"Throughput relative to the original with fused attention: {ratios}."
    )
    rows = [
        [
            when,
            *(
                f"{one['kept'][name]:.4f}" if name != "divergence" else f"{one['losses'][name][0]:.4f}"
                for name in one["kept"]
            ),
            *(f"{one['losses'][name][0]:.4f} ± {one['losses'][name][1]:.4f}" for name in one["losses"]),
        ]
        for when, one in quality.items()
    ]
    names = list(last["kept"])
    columns = ["", *names, *(f"loss of {name}" for name in names)]
    measured = (
        f"On {config.measured} pictures, on which the order and the number of heads were chosen, too; "
        "± standard error over them."
    )
    caption = measured + accuracy_text(numbers) + recovery_text(config, numbers)
    kept = kinds_by_block(numbers)
    return Section("Conversion", claim, [Table("What is left", columns, rows, caption), kept])


def recovery_text(config: ConvertConfig, numbers: dict[str, Any]) -> str:
    """Whether the recovered model is the saved one, and why, as text."""
    if numbers["recovery_gain"] is None:
        return ""
    mean, error = numbers["recovery_gain"]
    saved = "Saved: the model after recovery" if numbers["saved"] == RECOVERY else "Recovery was undone"
    return (
        f" {saved}. On the {config.ranking} pictures of the ranking, which it was not trained on, recovery changed the "
        f"{numbers['metric']} by {mean:+.4f} ± {error:.4f}; a recovered model is saved if that is more than the error."
    )


def kinds_by_block(numbers: dict[str, Any]) -> Table:
    """The heads of each block by how they are kept."""
    found: dict[int, dict[str, list[int]]] = {}
    for unit in numbers["heads"]:
        for head in unit["heads"]:
            kind = unit["kind"] if unit["converted"] else CONTENT
            found.setdefault(unit["block"], {}).setdefault(kind, []).append(head)
    columns = [kind for kind in (*KINDS, CONTENT) if any(kind in of_block for of_block in found.values())]
    rows = [
        [f"{block}", *(" ".join(map(str, sorted(of_block.get(kind, [])))) for kind in columns)]
        for block, of_block in sorted(found.items())
    ]
    caption = "Numbers of heads. A block without heads by content has no Q and K."
    return Table("How the heads of each block are kept", ["block", *columns], rows, caption)


def accuracy_text(numbers: dict[str, Any]) -> str:
    """The original's accuracy as text."""
    if "accuracy" not in numbers["original"]:
        return ""
    way = "its classifier" if numbers["original"]["classifier"] else "its nearest neighbours"
    return f" Accuracy is a share of the original's, {100 * numbers['original']['accuracy']:.1f} % by {way}."


def curves(config: ConvertConfig, numbers: dict[str, Any]) -> Section:
    """The loss over the share of converted heads."""
    metric = numbers["metric"]
    found = {name: one for name, one in numbers["curves"].items() if not name.startswith(f"{RANDOM} ")}
    half = {name: nearest_to_half(one, metric) for name, one in found.items()}
    claim = f"Loss of {NAMES[metric]} at the share nearest to half of the heads: " + ", ".join(
        f"{loss:.3f} by {name} ({share:.0%})" for name, (share, loss) in half.items()
    )
    count = config.random_orders
    random = f" Random orders: mean over {count}, whose spread is in the bars." if count > 1 else ""
    items = [
        Lines(
            f"Loss of {NAMES[name]}" if name != "divergence" else NAMES[name].capitalize(),
            {order: f"curves.{order}.share" for order in found},
            {order: f"curves.{order}.{name}.loss" for order in found},
            {order: f"curves.{order}.{name}.stderr" for order in found},
            x_label="share of converted heads",
            y_label="loss",
            caption=f"Before recovery; bars: standard error over the measured pictures.{random} Variation over images "
            "approximates the criterion of arXiv 2605.22132.",
        )
        for name in next(iter(found.values()))
        if name in NAMES
    ]
    return Section("Curves", claim + ".", items, at="convert")  # type: ignore[arg-type]


def nearest_to_half(one: dict[str, Any], metric: str) -> tuple[float, float]:
    """The measured share of heads that is nearest to one half, and the loss there."""
    return min(zip(one["share"], one[metric]["loss"], strict=True), key=lambda point: abs(point[0] - 0.5))


def head_map(config: ConvertConfig, numbers: dict[str, Any], grid: tuple[int, int]) -> Section:
    """The section on the cost of each head."""
    heads, metric = numbers["heads"], numbers["metric"]
    costs = [one["losses"][metric][0] for one in heads]
    highest = max(costs)
    claim = (
        f"Converted alone, a {config.by} costs {min(costs):.4f} to {highest:.4f} of the {metric}; "
        f"the most expensive is in block {heads[costs.index(highest)]['block']}."
    )
    rows = [
        [
            f"{one['block']}, {' '.join(map(str, one['heads']))}",
            one["kind"] if one["converted"] else CONTENT,
            *(f"{value[0]:.4f} ± {value[1]:.4f}" for value in one["losses"].values()),
            f"{one['positionality']:.3f}",
            f"{one['variation']:.3f}",
        ]
        for one in sorted(heads, key=lambda one: one["rank"])
    ]
    losses = [f"loss of {name}" for name in heads[0]["losses"]]
    table = Table(
        f"Each {config.by} alone, in the greedy order",
        ["block, head", "kept as", *losses, "positionality", "variation"],
        rows,
        f"On {config.ranking} pictures; ± standard error over them. Positionality: share of the variance of the "
        "attention that the average map explains; variation: what it leaves, summed over a map.",
    )
    items: list[Any] = [table]
    if config.by == "head":
        panel = HeatMaps(
            f"Loss of {NAMES[metric]} when a head alone is converted",
            "convert.head_map.losses",
            "convert.head_map.heads",
            "convert.head_map.blocks",
            ["loss"],
            x_label="head",
            y_label="block",
        )
        items.insert(0, panel)
    for name, words in (("cheapest", "cheapest"), ("dearest", "most expensive")):
        items.append(
            GridMaps(
                f"Average maps of the {words} {config.by}s",
                f"examples:{name}",
                grid,
                caption="Each small square is a patch: where it looks on average"
                + ("." if config.by == "head" else ", in the block's first head."),
            )
        )
    return Section("Heads", claim, items)


def speed(numbers: dict[str, Any]) -> Section:
    """Both models side by side."""
    timing = numbers["speed"]
    rows = [
        [
            size,
            *(quartiles(one[name]["images_per_second"], 1) for name in (ORIGINAL, CONVERTED)),
            quartiles(one["ratio"], 2),
            f"{one[CONVERTED]['multiply_adds'] / one[ORIGINAL]['multiply_adds']:.2f}",
            f"{one[CONVERTED]['parameters'] / one[ORIGINAL]['parameters']:.2f}",
        ]
        for size, one in timing["sizes"].items()
    ]
    first = next(iter(timing["sizes"].items()))
    claim = f"At {first[0]} px the converted model is {first[1]['ratio'][0]:.2f} times as fast."
    columns = ["px", "original, images/s", "converted, images/s", "ratio", "multiply-adds", "parameters"]
    caption = (
        f"Median and quartiles of rounds in turns, batches of {timing['batch']}, {timing['dtype']}, eager, "
        f"{timing['device']}, torch threads: {timing['threads']}; the original with fused attention. "
        "Multiply-adds and parameters: shares of the original's."
    )
    return Section("Speed", claim, [Table("Inference", columns, rows, caption)])


def quartiles(values: list[float], digits: int) -> str:
    """Median and quartiles."""
    median, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{median} ({low} to {high})"

"""The page of `posattn run content-heads`."""

from typing import Any

from posattn.recipes.content_heads.settings import ContentHeadsConfig
from posattn.runs.page import Section, Table, mean_lines
from posattn.runs.seeds import averaged_text, collect, mean_std_text

FIRST, LAST = "cheapest first", "most expensive first"
COSTS = {"loss": "rise of the test loss", "drop": "fall of the test accuracy"}
Numbers = dict[str, Any]


def ranking_section(
    config: ContentHeadsConfig, numbers: Numbers, by_block: dict[str, list[float]]
) -> Section:
    """The section on the cost of each head; ``by_block``: mean drop of each seed."""
    drops, seeds = numbers["mean"]["drop"], numbers["seeds"]
    claim = (
        f"Replacing a single head by its average map cost, in training accuracy, {100 * drops[0]:.1f} points for the "
        f"head that is cheapest to replace and {100 * drops[-1]:.1f} for the most expensive one "
        f"(mean over {len(seeds)} trained ViTs)."
    )
    figure = mean_lines(
        "Drop of accuracy when one head is replaced, by rank",
        "rank",
        {"drop": "*.drop"},
        "rank of the head within its ViT",
        "drop of accuracy",
        caption=f"{averaged_text('Mean and standard deviation', len(seeds))}, on training images.",
    )
    blocks = Table(
        "Drop by block, points",
        ["block", "drop"],
        [[block, mean_std_text(drop, 2, 100)] for block, drop in by_block.items()],
        f"Mean over heads; {averaged_text('± std', len(seeds))}.",
    )
    heads = Table(
        f"The heads of seed {config.seed}, {FIRST}",
        ["rank", "block", "head", "drop, points", "positionality"],
        [
            [
                f"{rank}",
                f"{need['block']}",
                f"{need['head']}",
                f"{100 * need['drop']:.2f} ± {100 * need['stderr']:.2f}",
                f"{need['positionality']:.3f}",
            ]
            for rank, need in enumerate(seeds[0]["ranked"], 1)
        ],
        "± standard error over the images, paired. Head numbers of different seeds do not correspond.",
    )
    return Section("Heads ranked", claim, [figure, blocks, heads], at="heads")


def replacement_section(config: ContentHeadsConfig, numbers: Numbers) -> Section:
    """Test accuracy against the number of heads replaced."""
    accuracy, count = collect([one["accuracy"] for one in numbers["seeds"]]), len(numbers["rank"])
    before, half, after = (mean_std_text(accuracy[FIRST][i], 1, 100) for i in (0, count // 2, -1))
    claim = (
        f"Test accuracy was {before} % before and {after} % with every head replaced and nothing retrained; with "
        f"{count // 2} of {count} heads replaced, {half} % if the cheapest go first and "
        f"{mean_std_text(accuracy[LAST][count // 2], 1, 100)} % if the most expensive do."
    )
    figure = mean_lines(
        "Test accuracy against heads replaced",
        "replaced",
        {way: f"*.accuracy.{way}" for way in (FIRST, LAST)},
        "heads replaced by their average map",
        "test accuracy",
        caption=f"{averaged_text('Mean and standard deviation', len(numbers['seeds']))} on {config.data.data}; "
        "heads are ranked on training images.",
    )
    return Section("Heads replaced", claim, [figure], at="heads")


def positionality_section(numbers: Numbers) -> Section:
    """Whether a head's positionality predicts what its conversion costs in testing."""
    found, heads = numbers["rank_correlation"], sum(len(one["ranked"]) for one in numbers["seeds"])
    interval = {cost: interval_text(found[cost]["low"], found[cost]["high"]) for cost in COSTS}
    claim = (
        "Rank correlation of a head's positionality with the rise of the test loss when it alone is replaced: "
        f"{found['loss']['all']:.2f} (95 % interval {interval['loss']}, {heads} heads)."
    )
    rows = [
        [
            text,
            f"{found[cost]['all']:.2f}",
            interval[cost],
            mean_std_text(found[cost]["by_seed"], 2),
            ", ".join(f"{value:.2f}" for value in found[cost]["by_block"]),
        ]
        for cost, text in COSTS.items()
    ]
    columns = ["cost", "all heads", "95 %", "mean ± std over seeds", "within block 0, 1, ..."]
    table = Table("Spearman's rank correlation with positionality", columns, rows)
    return Section("Positionality and conversion", claim, [table])


def interval_text(low: float | None, high: float | None) -> str:
    """An interval, or ``unknown`` if an end is."""
    return "unknown" if low is None or high is None else f"{low:.2f} to {high:.2f}"

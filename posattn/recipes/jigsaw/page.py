"""What the recipe jigsaw shows."""

from typing import Any

from posattn.runs.page import GridMaps, Pictures, Section, Table
from posattn.runs.seeds import mean_std_text

SHUFFLED, PLAIN = "shuffled", "plain"


def of_order(numbers: dict[str, Any], order: str, name: str) -> list[float]:
    """A number of every seed."""
    return [one[name] for key, one in numbers["seeds"].items() if key.startswith(order)]


def by_order(numbers: dict[str, Any], name: str) -> dict[str, list[float]]:
    """A number of every seed, by how the patches were ordered in training."""
    found = {order: of_order(numbers, order, name) for order in (SHUFFLED, PLAIN)}
    return {order: values for order, values in found.items() if values}


def spread_text(values: list[float]) -> str:
    """Mean ± std, or the one value there is."""
    return mean_std_text(values, 3) if len(values) > 1 else f"{values[0]:.3f}"


def puzzle_section(numbers: dict[str, Any], data: str, seed: int) -> Section:
    """How much of the layout was found."""
    found = of_order(numbers, SHUFFLED, "pairs")
    pairs = mean_std_text(found, 1, 100)
    embedded = mean_std_text(of_order(numbers, SHUFFLED, "embedded_pairs"), 1, 100)
    noise, images = (100 * numbers["baselines"][name]["pairs"] for name in ("noise", "images"))
    claim = (
        f"From the scores of a positional ViT trained on {data} with its patches shuffled, {pairs} % of the "
        f"pairs of neighbouring patches were put back side by side ({len(found)} seeds); from scores that are "
        f"noise {noise:.1f} %. The model has no notion of the grid."
    )
    rows = [row(key, one) for key, one in numbers["seeds"].items()]
    rows += [
        ["from noise", f"{noise:.1f}", "", f"{100 * numbers['baselines']['noise']['recall']:.1f}", ""],
        ["from the images", f"{images:.1f}", "", f"{100 * numbers['baselines']['images']['recall']:.1f}", ""],
    ]
    return Section(
        "Putting the patches back",
        claim,
        [
            Pictures(
                "Test images",
                "jigsaw:pictures",
                ["before shuffling", "as the model saw them", "put back together"],
                f"The layout found for seed {seed}; turns and reflections of the whole, which scores cannot "
                "tell, are undone.",
            ),
            Table(
                "Every training",
                ["patches, seed", "pairs found, %", "by embedding, %", "recall, %", "test accuracy, %"],
                rows,
                "Pairs found: true neighbours that are neighbours in the layout. By embedding: spectral embedding, "
                f"assignment and exchanges in place of growing ({embedded} %, shuffled). Recall: true neighbours "
                "among the four most similar positions. From the images: partial correlation of the brightness of "
                "patches over the training images.",
            ),
        ],
    )


def row(key: str, one: dict[str, Any]) -> list[str]:
    """A line of the table."""
    return [
        key.replace("/", ", "),
        *(f"{100 * one[name]:.1f}" for name in ("pairs", "embedded_pairs", "recall", "accuracy")),
    ]


def scores_section(numbers: dict[str, Any], side: int, seed: int) -> Section:
    """What of the grid is in the scores, and what is not."""
    chance = numbers["seeds"][f"{SHUFFLED}/{seed}"]["association_chance"]
    recall = mean_std_text(of_order(numbers, SHUFFLED, "recall"), 1, 100)
    profiles, attention = (
        ", ".join(f"{spread_text(found)} after {order} training" for order, found in of_orders.items())
        for of_orders in (by_order(numbers, name) for name in ("profile_association", "association"))
    )
    claim = (
        f"Neighbours are known by their profiles, not by attending to each other: {recall} % of true neighbours are "
        f"among the four positions of most similar profile. Patch association with {side}x{side} neighbourhoods is "
        f"{profiles} for the likeness of profiles, and {attention} for the attention maps "
        f"(chance {chance:.4f})."
    )
    return Section(
        "What the scores hold",
        claim,
        [
            GridMaps(
                "Which patches are related",
                "jigsaw:similarity",
                tuple(numbers["grid"]),
                ["likeness of score profiles", "attention, mean over heads and layers"],
                f"Seed {seed}, in true order, which the model does not know. Each tile is one patch at its "
                "place; within it, the patches it is related to.",
            ),
        ],
    )

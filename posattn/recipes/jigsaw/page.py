"""The page of `posattn run jigsaw`."""

from statistics import fmean
from typing import Any

from posattn.recipes.jigsaw.settings import JigsawConfig
from posattn.runs.page import GridMaps, PictureRows, Section, Table
from posattn.runs.seeds import count_text, mean_std_text

SHUFFLED, PLAIN = "shuffled", "plain"
Numbers = dict[str, Any]


def per_seed(numbers: Numbers, order: str, name: str) -> list[float]:
    """A number of every training with the patches in that order."""
    return [one[name] for key, one in numbers["seeds"].items() if key.startswith(order)]


def by_order_text(numbers: Numbers, name: str) -> str:
    """A number over the seeds, for shuffled and for plain training."""
    found = {order: per_seed(numbers, order, name) for order in (SHUFFLED, PLAIN)}
    return ", ".join(f"{mean_std_text(ones)} after {order} training" for order, ones in found.items() if ones)


def puzzle_section(config: JigsawConfig, numbers: Numbers) -> Section:
    """The section on the recovered layout."""
    pairs, embedded = (
        mean_std_text(per_seed(numbers, SHUFFLED, name), 1, 100) for name in ("pairs", "embedded_pairs")
    )
    noise, images = (numbers["baselines"][name] for name in ("noise", "images"))
    claim = (
        f"From the scores of a positional ViT trained on {config.data.data} with its patches shuffled, {pairs} % of "
        f"the pairs of neighbouring patches were put back side by side ({count_text(config.seeds, 'seed')}); "
        f"from scores that are noise {100 * noise['pairs']:.1f} %. The model has no notion of the grid."
    )
    pictures = PictureRows(
        "Test images",
        "jigsaw:pictures",
        ["before shuffling", "as the model saw them", "put back together"],
        f"The layout found for seed {config.seed}; turns and reflections of the whole, which scores cannot "
        "tell, are undone.",
    )
    rows = [row(key.replace("/", ", "), one) for key, one in numbers["seeds"].items()]
    table = Table(
        "Every training",
        ["patches, seed", "pairs found, %", "by embedding, %", "recall, %", "test accuracy, %"],
        [*rows, row("from noise", noise), row("from the images", images)],
        "Pairs found: true neighbours that are neighbours in the layout. By embedding: spectral embedding, "
        f"assignment and exchanges in place of growing ({embedded} %, shuffled). Recall: true neighbours "
        "among the four most similar positions. From the images: partial correlation of the brightness of "
        "patches over the training images.",
    )
    return Section("Putting the patches back", claim, [pictures, table])


def row(label: str, one: Numbers) -> list[str]:
    """A line of the table; cells without a number stay empty."""
    names = ("pairs", "embedded_pairs", "recall", "accuracy")
    return [label, *(f"{100 * one[name]:.1f}" if name in one else "" for name in names)]


def scores_section(config: JigsawConfig, numbers: Numbers) -> Section:
    """The section on the relations between patches in the scores."""
    chances = (fmean(per_seed(numbers, SHUFFLED, name)) for name in ("profile_chance", "association_chance"))
    by_profile, by_attention = (f"chance {chance:.3f}" for chance in chances)
    claim = (
        f"Of true neighbours, {mean_std_text(per_seed(numbers, SHUFFLED, 'recall'), 1, 100)} % are among the four "
        "positions of most similar score profile. "
        f"Patch association with {config.tile}x{config.tile} neighbourhoods is "
        f"{by_order_text(numbers, 'profile_association')} for the likeness of profiles ({by_profile}), and "
        f"{by_order_text(numbers, 'association')} for the attention maps ({by_attention})."
    )
    relations = GridMaps(
        "Which patches are related",
        "jigsaw:similarity",
        tuple(numbers["grid"]),
        ["likeness of score profiles", "attention, mean over heads and layers"],
        f"Seed {config.seed}, in true order, which the model does not know. Each tile is one patch at its "
        "place, on a scale of its own; within it, the patches it is related to. Likeness below 0, and that of a patch "
        "with itself, is shown as 0.",
    )
    return Section("What the scores hold", claim, [relations])

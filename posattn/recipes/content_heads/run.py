"""Which heads of a trained ViT need the content of the image, how many can do without, and what tells them apart."""

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.content_heads import page
from posattn.recipes.content_heads.correlation import rank_correlation
from posattn.recipes.content_heads.page import FIRST, LAST
from posattn.recipes.content_heads.settings import ContentHeadsConfig
from posattn.recipes.kit.classifiers import check_models, load_splits, load_trained, train_grid, train_one
from posattn.recipes.kit.settings import ORIGINAL
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import collect, over_seeds
from posattn.vision.convert.averages import map_statistics
from posattn.vision.convert.ranking import accuracy_over_replaced, content_needs
from posattn.vision.data.images import ImageSet, to_float

Numbers = dict[str, Any]


def run(config: ContentHeadsConfig, run: RunFolder, progress: Progress) -> Numbers:
    """Train and convert a ViT per seed."""
    check_models(config, [ORIGINAL])
    check_counts(config)
    done = train_grid("content-heads", convert_heads, config, zip(config.all_seeds), run, progress)
    seeds = list(done.values())
    summaries = [summary(one) for one in seeds]
    count = len(seeds[0]["ranked"])
    numbers = {
        "seeds": seeds,
        "rank": list(range(1, 1 + count)),
        "replaced": list(range(1 + count)),
        **over_seeds(summaries),
        "rank_correlation": {cost: rank_correlation(seeds, cost) for cost in ("loss", "drop")},
    }
    sections = [
        page.ranking_section(config, numbers, collect([one["block"] for one in summaries])),
        page.replacement_section(config, numbers),
        page.positionality_section(numbers),
    ]
    return {
        "title": "Heads that need content",
        "summary": f"Heads of ViTs trained on {config.data.data} replaced, one by one, by their average attention.",
        "heads": numbers,
        "page": to_plain(sections),
    }


def check_counts(config: ContentHeadsConfig) -> None:
    """Raise ValueError, before anything is trained, for a split of one image, over which costs have no error."""
    for split, images in zip(("training", "test"), load_splits(config), strict=True):
        if len(images) < 2:
            raise ValueError(f"{config.data.data} must have at least two {split} images, got {len(images)}")


def convert_heads(config: ContentHeadsConfig, seed: int, folder: Path) -> Numbers:
    """Train a ViT and convert its heads.

    Returns:
        ``ranked``: the cost of each head on training images, the cheapest first, its ``positionality`` there, and what
        it costs in testing. ``accuracy``: in testing, over the number of heads replaced in either order.
    """
    train_one(config, ORIGINAL, seed, folder)
    train_set, test_set = load_splits(config)
    vit = load_trained(config.size, ORIGINAL, seed, test_set, RunFolder(folder))
    sample = calibration_set(train_set, config.calibration, seed)
    statistics = map_statistics(vit, to_float(sample.images), range(config.size.depth))
    maps = {block: found.mean for block, found in statistics.items()}
    ranked = content_needs(vit, maps, sample)
    order = [(need.block, need.head) for need in ranked]
    tested = {(need.block, need.head): need for need in content_needs(vit, maps, test_set)}
    return {
        "ranked": [
            need._asdict()
            | {"positionality": statistics[need.block].positionality[need.head].item()}
            | {"test_drop": other.drop, "test_loss": other.loss}
            for need in ranked
            for other in [tested[need.block, need.head]]
        ],
        "accuracy": {
            FIRST: accuracy_over_replaced(vit, maps, order, test_set),
            LAST: accuracy_over_replaced(vit, maps, order[::-1], test_set),
        },
    }


def calibration_set(train_set: ImageSet, count: int, seed: int) -> ImageSet:
    """Random training images, at most ``count``: the first of a set may be of one class."""
    order = torch.randperm(len(train_set), generator=Generator().manual_seed(seed))
    return train_set.select(order[:count])


def summary(one: Numbers) -> Numbers:
    """The numbers averaged over seeds: the drop by rank, its mean by block, and accuracy over heads replaced."""
    ranked = one["ranked"]
    blocks = sorted({need["block"] for need in ranked})
    return {
        "drop": [need["drop"] for need in ranked],
        "block": {
            f"{block}": fmean(need["drop"] for need in ranked if need["block"] == block) for block in blocks
        },
        "accuracy": one["accuracy"],
    }

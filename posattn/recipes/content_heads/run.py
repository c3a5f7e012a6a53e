"""Which heads of a trained ViT need the content of the image, and how many can do without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from posattn.recipes.content_heads.settings import ContentHeadsConfig
from posattn.recipes.kit.classifiers import check_images, load_split, load_trained, train_one
from posattn.recipes.kit.settings import ORIGINAL
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.vision.convert.maps import average_maps
from posattn.vision.convert.ranking import Need, accuracy_over_replaced, content_needs
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.training.logs import follow_trainings

FIRST, LAST = "most positional first", "most content-based first"


def convert_heads(config: ContentHeadsConfig, seed: int, folder: Path) -> dict[str, Any]:
    """Train a ViT, rank its heads on training images, and trace its test accuracy over the heads replaced."""
    images = config.images
    train_one(images, ORIGINAL, seed, folder)
    train_set, test_set = (load_split(images, split) for split in ("train", "test"))
    vit = load_trained(images, ORIGINAL, seed, test_set, RunFolder(folder))
    sample = first(train_set, config.calibration)
    maps = average_maps(vit, to_float(sample.images), range(images.depth))
    ranked = content_needs(vit, maps, sample)
    order = [(need.block, need.head) for need in ranked]
    return {
        "ranked": [need._asdict() for need in ranked],
        "accuracy": {
            FIRST: accuracy_over_replaced(vit, maps, order, test_set),
            LAST: accuracy_over_replaced(vit, maps, order[::-1], test_set),
        },
    }


def first(image_set: ImageSet, count: int) -> ImageSet:
    """The first images, at most ``count``."""
    return replace(image_set, images=image_set.images[:count], labels=image_set.labels[:count])


def run(config: ContentHeadsConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """A ViT a seed, each a part of a sweep."""
    check_images(config.images)
    settings = {
        f"seed={config.seed + i}": (config, config.seed + i, run.path) for i in range(config.images.seeds)
    }
    with follow_trainings(run, progress, config.images.train):
        seeds = list(sweep("content-heads", settings, convert_heads, run, progress).values())
    numbers = gather(seeds, config.images.depth)
    return {
        "title": "Heads that need content",
        "summary": "Heads of trained ViTs replaced, one by one, by their average attention.",
        "heads": numbers,
        "page": to_plain([ranking(config, numbers), trace(config, numbers)]),
    }


def gather(seeds: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    """Over the seeds: the drop by rank and by block, and accuracy against the number of heads replaced."""
    ranked = [[Need(**need) for need in one["ranked"]] for one in seeds]
    by_rank = [mean_std([need.drop for need in of_rank]) for of_rank in zip(*ranked, strict=True)]
    traces = {
        way: [mean_std(at) for at in zip(*(one["accuracy"][way] for one in seeds), strict=True)]
        for way in (FIRST, LAST)
    }
    return {
        "seeds": seeds,
        "rank": list(range(1, 1 + len(by_rank))),
        "drop": [mean for mean, _ in by_rank],
        "drop_std": [std for _, std in by_rank],
        "of_block": [
            [mean_std([need.drop for need in one if need.block == block])[0] for one in ranked]
            for block in range(depth)
        ],
        "replaced": list(range(1 + len(by_rank))),
        "accuracy": {way: [mean for mean, _ in line] for way, line in traces.items()},
        "accuracy_std": {way: [std for _, std in line] for way, line in traces.items()},
    }


def ranking(config: ContentHeadsConfig, numbers: dict[str, Any]) -> Section:
    """How much each head needs content."""
    drops, count = numbers["drop"], len(numbers["seeds"])
    claim = (
        f"Replacing a single head by its average map cost, in training accuracy, {100 * drops[0]:.1f} points for the "
        f"most positional head and {100 * drops[-1]:.1f} for the one that needs content most "
        f"(mean over {count} trained ViTs)."
    )
    blocks = [[f"{i + 1}", mean_std_text(of, 2, 100)] for i, of in enumerate(numbers["of_block"])]
    heads = [
        [
            f"{rank}",
            f"{n['block'] + 1}",
            f"{n['head'] + 1}",
            f"{100 * n['drop']:.2f} ± {100 * n['stderr']:.2f}",
        ]
        for rank, n in enumerate(numbers["seeds"][0]["ranked"], 1)
    ]
    return Section(
        "Heads ranked",
        claim,
        [
            Lines(
                "Drop of accuracy when one head is replaced, by rank",
                "heads.rank",
                {"drop": "heads.drop"},
                {"drop": "heads.drop_std"},
                x_label="rank of the head within its ViT",
                y_label="drop of accuracy",
                caption=f"Mean and standard deviation over {count} seeds, on training images.",
            ),
            Table(
                "Drop by block, points",
                ["block", "drop"],
                blocks,
                f"Mean over heads; ± std over {count} seeds.",
            ),
            Table(
                f"The heads of seed {config.seed}, most positional first",
                ["rank", "block", "head", "drop, points"],
                heads,
                "± standard error over the images, paired. Heads of other seeds have other places.",
            ),
        ],
    )


def trace(config: ContentHeadsConfig, numbers: dict[str, Any]) -> Section:
    """Test accuracy against the number of heads replaced."""
    before, after = (
        mean_std_text([one["accuracy"][FIRST][at] for one in numbers["seeds"]], 1, 100) for at in (0, -1)
    )
    half = len(numbers["rank"]) // 2
    at_half = {way: 100 * numbers["accuracy"][way][half] for way in (FIRST, LAST)}
    claim = (
        f"Test accuracy was {before} % before and {after} % with every head replaced and nothing retrained; with "
        f"{half} of {len(numbers['rank'])} heads replaced, {at_half[FIRST]:.1f} % if the most positional go first and "
        f"{at_half[LAST]:.1f} % if those that need content do."
    )
    figure = Lines(
        "Test accuracy against heads replaced",
        "heads.replaced",
        {way: f"heads.accuracy.{way}" for way in (FIRST, LAST)},
        {way: f"heads.accuracy_std.{way}" for way in (FIRST, LAST)},
        x_label="heads replaced by their average map",
        y_label="test accuracy",
        caption=f"Mean and standard deviation over {len(numbers['seeds'])} seeds on {config.images.data}; "
        "heads are ranked on training images.",
    )
    return Section("Heads replaced", claim, [figure])

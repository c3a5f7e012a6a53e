"""Real images, a recipe a set: the original ViT and models whose attention depends on positions, trained alike."""

from typing import Any

from rich.progress import Progress

from posattn.recipes.images.comparison import compare_on_images, images_section
from posattn.recipes.images.settings import ComparisonConfig
from posattn.recipes.kit.classifiers import check_images
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain


def run(config: ComparisonConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The comparison as a run of its own."""
    for needed in (ORIGINAL, POSITIONAL):
        if needed not in config.images.models:
            raise ValueError(f"models must hold {needed!r}, got {config.images.models}")
    check_images(config.images)
    numbers, timing = compare_on_images(config.images, config.seed, run, progress)
    return {
        "title": f"Positional attention against the original ViT on {config.images.data}",
        "summary": "Same size, epochs, augmentation and seeds.",
        "images": numbers,
        "timing": timing,
        "page": to_plain([images_section(config.images, numbers, timing)]),
    }

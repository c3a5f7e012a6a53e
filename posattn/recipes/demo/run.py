"""The main job: structure, transfer and real images, on data that ships with the dependencies."""

from typing import Any

from rich.progress import Progress

from posattn.recipes.demo.settings import DemoConfig
from posattn.recipes.demo.structure import find_structure, structure_section
from posattn.recipes.images.page import images_section
from posattn.recipes.images.run import compare_models
from posattn.recipes.kit.classifiers import check_models
from posattn.recipes.transfer.curves import transfer_curves, transfer_section
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain


def run(config: DemoConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """The three acts, each a unit that a resumed run does not repeat."""
    check_models(config.images, config.images.models)
    structure = run.unit("structure", lambda: find_structure(config.structure, config.seed, run, progress))
    transfer = transfer_curves(config.transfer, config.seed, run, progress)
    images, timing = compare_models(config.images, run, progress)
    sections = [
        structure_section(structure),
        transfer_section(transfer),
        images_section(config.images, images, timing),
    ]
    return {
        "title": "Vision Transformers learn spatial structure",
        "summary": "Three claims of arXiv 2210.09221, each trained on this machine, in a few minutes.",
        "structure": structure,
        "transfer": transfer,
        "images": images,
        "timing": timing,
        "page": to_plain(sections),
    }

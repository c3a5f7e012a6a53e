"""How scores start: what it does to accuracy, and to how much structure can be read from the learned attention."""

from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from posattn.recipes.kit.classifiers import build, check_models, fit, load_split, train_grid
from posattn.recipes.kit.settings import POSITIONAL
from posattn.recipes.score_init.page import starts_section
from posattn.recipes.score_init.settings import STARTS, ScoreInitConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import over_seeds
from posattn.structure.association import own_share_of_largest
from posattn.vision.grid import Grid, neighbourhoods
from posattn.vision.jigsaw.layout import neighbour_recall, profile_similarity

TINY = 1e-30  # below it an entry of a map may be 0 in float32


def run(config: ScoreInitConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train a model per start and seed."""
    check_models(config, [POSITIONAL])
    cells = product(config.starts, config.all_seeds)
    done = train_grid("score-init", train_start, config, cells, run, progress)
    runs = {start: [done[start, seed] for seed in config.all_seeds] for start in config.starts}
    means = {start: over_seeds(ones) for start, ones in runs.items()}
    return {
        "title": "How scores start",
        "summary": f"Positional ViTs on {config.data.data} that differ in how their scores start.",
        "epoch": config.after,
        "starts": means,
        "runs": runs,
        "page": to_plain([starts_section(config, runs, means)]),
    }


def train_start(config: ScoreInitConfig, start: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one model: its test accuracy after the chosen epochs, and measures of the grid in its maps.

    ``association`` with the 3 x 3 neighbourhoods; ``neighbour_recall``, the share of grid neighbours among the
    positions of most similar scores.
    """
    unit = f"score-init-{start.replace(',', '').replace(' = ', '').replace(' ', '-')}-{seed}"
    train_set, test_set = (load_split(config, split) for split in ("train", "test"))
    model: Any = build(config.size, POSITIONAL, seed, test_set, **STARTS[start])
    done = fit(model, train_set, test_set, config.train, seed, folder, unit, after=config.after)
    height, width = grid = model.patch_embed.grid_size
    maps = model.eval().attention_maps().detach().double().clamp(min=TINY)
    neighbourhood = neighbourhoods(Grid(height, width))
    places = torch.arange(height * width)
    return {
        "accuracy": done["accuracy"],
        "association": float(own_share_of_largest(maps, neighbourhood).mean()),
        "neighbour_recall": neighbour_recall(profile_similarity(maps), places, grid),
    }

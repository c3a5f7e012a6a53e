"""Patch association from random initialisation, in both settings of the paper and both forms of the scores."""

import math
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.association import page
from posattn.recipes.association.page import ENCODED, FREE, SETTINGS
from posattn.recipes.association.settings import AssociationConfig, Setting
from posattn.runs.folder import RunFolder
from posattn.runs.seeds import over_seeds
from posattn.runs.sweep import sweep
from posattn.structure.partition import Partition
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT, encode_positions, small_noise_rate
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import (
    chance_below_diagonal,
    describe,
    evenly,
    first_full,
    off_diagonal,
    rounded,
    track,
)


def run(config: AssociationConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every training of every seed; the maps of the first."""
    arms = {f"{name}, {form}": (getattr(config, name), form) for name in SETTINGS for form in (FREE, ENCODED)}
    for name in SETTINGS:  # checked before anything is trained
        setting = getattr(config, name)
        if setting.diagonal is None and setting.dim < 3:
            raise ValueError(f"--{name}.dim must be at least 3 for σ_A = log log d, got {setting.dim}")
    seeds = range(config.seed, config.seed + config.seeds)
    settings = {f"{arm}, seed={seed}": (config, *arms[arm], seed) for arm in arms for seed in seeds}
    found = sweep("association", settings, train_one, run, progress)
    runs = {arm: [found[f"{arm}, seed={seed}"] for seed in seeds] for arm in arms}
    run.save_tensors("association", {arm: torch.tensor(each[0]["maps"]) for arm, each in runs.items()})
    numbers = {arm: summarise(each) for arm, each in runs.items()}
    return {
        "title": "Gradient descent finds the hidden sets",
        "summary": "Patch association from random initialisation, over time, in both settings of arXiv 2210.09221.",
        "association": numbers,
        "page": page.sections(config, numbers),
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The seeds of one form of the scores."""
    histories = [each["history"] for each in runs]
    return {
        "step": histories[0]["step"],
        "frames": runs[0]["frames"],
        "chance": runs[0]["chance"],
        **over_seeds(histories),
        "last": {k: [history[k][-1] for history in histories] for k in histories[0]},
        "first": {k: [history[k][0] for history in histories] for k in histories[0]},
        "complete": [first_full(history) for history in histories],
    }


def train_one(config: AssociationConfig, setting: Setting, form: str, seed: int) -> dict[str, Any]:
    """One training by steps exact in law, measured on the way; its maps where the seed is the first."""
    generator = Generator().manual_seed(seed)
    task, model = start(setting, form, generator)
    test = task.sample(config.test_samples, generator=generator)
    rates: dict[str, Any] = {"value_rate": setting.value_rate, "normalize": setting.normalize}
    sizes = (setting.batch_size, setting.steps, setting.rate)
    training = descend_in_law(model, task, *sizes, **rates, generator=generator)
    maps = []

    def measure(_: object) -> dict[str, float]:
        maps.append(off_diagonal(model, task.partition))
        return describe(model, task, test)

    history = track(training, evenly(setting.steps, config.measurements), measure)
    shown = range(0, len(maps), max(1, len(maps) // config.frames)) if seed == config.seed else range(0)
    return {
        "history": history,
        "frames": [f"step {history['step'][i]:g}" for i in shown],
        "maps": [rounded(maps[i]) for i in shown],
        "chance": chance_below_diagonal(task.partition),
    }


def start(setting: Setting, form: str, generator: Generator) -> tuple[StructuredTask, SimplifiedViT]:
    """A random partition, feature and model."""
    D, d = setting.num_patches, setting.dim
    noise_rate = small_noise_rate(D, d) if setting.noise_rate is None else setting.noise_rate
    diagonal = math.log(math.log(d)) if setting.diagonal is None else setting.diagonal
    partition = Partition.random(D, setting.set_size, generator=generator)
    noise: dict[str, Any] = {"noise_rate": noise_rate, "noise_std": setting.noise_std}
    task = StructuredTask(partition, dim=d, generator=generator, **noise)
    options = (setting.power, setting.linear, diagonal, setting.scale)
    model = SimplifiedViT(D, d, *options, init_std=setting.init_std, generator=generator)
    if form == ENCODED:
        encode_positions(model, setting.encoding_dim, init_std=setting.init_std, generator=generator)
    return task, model

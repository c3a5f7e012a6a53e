"""Patch association from random initialisation, in both settings of the paper and both forms of the scores."""

import math
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.association import page
from posattn.recipes.association.page import ENCODED, FREE, SETTINGS
from posattn.recipes.association.settings import AssociationConfig, Setting
from posattn.recipes.kit.theory import draw_task, summarise
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.sweep import sweep_seeds
from posattn.structure.association import patch_association
from posattn.theory import tracking
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT, encode_positions, small_noise_rate
from posattn.theory.task import StructuredTask


def run(config: AssociationConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every training of every seed; the maps of the first."""
    arms = {
        f"{name}, {form}": (config, getattr(config, name), form)
        for name in SETTINGS
        for form in (FREE, ENCODED)
    }
    runs = sweep_seeds("association", arms, config.all_seeds, train_one, run, progress)
    run.save_tensors("association", {arm: torch.tensor(ones[0]["maps"]) for arm, ones in runs.items()})
    numbers = {
        arm: {
            **summarise([one["history"] for one in ones]),
            "step": ones[0]["history"]["step"],
            "frames": ones[0]["frames"],
            "chance": fmean(one["chance"] for one in ones),
        }
        for arm, ones in runs.items()
    }
    return {
        "title": "Gradient descent finds the hidden sets",
        "summary": "Patch association from random initialisation, over time, in both settings of arXiv 2210.09221.",
        "association": numbers,
        "page": to_plain([page.setting_section(name, getattr(config, name), numbers) for name in SETTINGS]),
    }


def train_one(config: AssociationConfig, setting: Setting, form: str, seed: int) -> dict[str, Any]:
    """One training by steps exact in law, measured on the way; its maps where the seed is the first."""
    generator = Generator().manual_seed(seed)
    task, model = start(setting, form, generator)
    test = task.sample(config.test_samples, generator=generator)
    training = descend_in_law(
        model,
        task,
        setting.batch_size,
        setting.steps,
        setting.rate,
        value_rate=setting.value_rate,
        normalize=setting.normalize,
        generator=generator,
    )
    chance = tracking.mean(patch_association(tracking.held_scores(model), task.partition).chance)
    maps = []

    def measure(_: object) -> dict[str, float]:
        maps.append(tracking.off_diagonal(model, task.partition))
        return tracking.describe(model, task, test)

    history = tracking.track(training, tracking.evenly(setting.steps, config.measurements), measure)
    shown = spread(len(maps), config.frames) if seed == config.seed else []
    return {
        "history": history,
        "frames": [f"step {history['step'][i]:g}" for i in shown],
        "maps": [tracking.rounded(maps[i]) for i in shown],
        "chance": chance,
    }


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly, the last one among them."""
    return sorted({round(place) for place in np.linspace(count - 1, 0, most)})


def start(setting: Setting, form: str, generator: Generator) -> tuple[StructuredTask, SimplifiedViT]:
    """A random task and model."""
    D, d, std = setting.num_patches, setting.dim, setting.init_std
    noise_rate = small_noise_rate(D, d) if setting.noise_rate is None else setting.noise_rate
    diagonal = math.log(math.log(d)) if setting.diagonal is None else setting.diagonal
    task = draw_task(D, setting.set_size, d, noise_rate, generator, setting.noise_std)
    activation = (setting.power, setting.linear)
    model = SimplifiedViT(D, d, *activation, diagonal, setting.scale, init_std=std, generator=generator)
    if form == ENCODED:
        encode_positions(model, setting.encoding_dim, init_std=std, generator=generator)
    return task, model

"""Masked reconstruction on the structured data against the labelled task: does each find the sets in A?"""

from itertools import product
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.kit.theory import draw_task, summarise
from posattn.recipes.masked import page
from posattn.recipes.masked.page import ADAM, ENCODED, FORMS, LABELS, OBJECTIVES, OPTIMIZERS, RECONSTRUCTION
from posattn.recipes.masked.settings import MaskedConfig
from posattn.runs.folder import RunFolder
from posattn.runs.sweep import sweep_seeds
from posattn.structure.association import patch_association
from posattn.structure.partition import Cover
from posattn.theory.accuracy import accuracy
from posattn.theory.descent import descend
from posattn.theory.masked import masked, masked_error, reconstructor
from posattn.theory.protocols import Labelled
from posattn.theory.simplified import SimplifiedViT, encode_positions, logistic_loss
from posattn.theory.student import PositionStudent
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import (
    association_of_others,
    by_set,
    evenly,
    held_scores,
    rounded,
    track,
)

Learner = PositionStudent | SimplifiedViT


def run(config: MaskedConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every objective, optimizer, form of the scores and seed; the maps of the first seed."""
    for form, seed in product(FORMS, config.all_seeds):
        begin(config, RECONSTRUCTION, form, seed)  # what it refuses is refused before anything is trained
    arms = {page.arm(*arm): (config, *arm) for arm in product(OBJECTIVES, OPTIMIZERS, FORMS)}
    runs = sweep_seeds("masked", arms, config.all_seeds, train_one, run, progress)
    run.save_tensors("masked", {name: torch.tensor(each[0]["map"]) for name, each in runs.items()})
    result = {
        "step": evenly(config.steps, config.measurements),
        "arms": {
            name: summarise([one["history"] for one in each], "association") for name, each in runs.items()
        },
    }
    return {
        "title": "Masked reconstruction on the structured data",
        "summary": "Hidden patches are predicted from the others, without labels: patch association over training, "
        "against that of the labelled task with the same samples.",
        **result,
        "page": page.sections(config, result),
    }


def train_one(config: MaskedConfig, objective: str, optimizer: str, form: str, seed: int) -> dict[str, Any]:
    """One training, measured from its start, and its scores at the end."""
    generator, task, model, test = begin(config, objective, form, seed)
    rates = config.labels if objective == LABELS else config.reconstruction
    plain = {"rate": rates.rate, "value_rate": rates.value_rate}
    adam = {"optimizer": torch.optim.Adam(model.parameters(), lr=config.lr)}
    training = descend(
        model,
        lambda: draw(config, objective, task, config.batch_size, generator),
        config.steps,
        **(adam if optimizer == ADAM else plain),
        loss=logistic_loss if objective == LABELS else masked_error,
    )
    points = evenly(config.steps, config.measurements)
    history = track(training, points, lambda step: describe(model, objective, task.partition, test))
    map_ = by_set(scores(model).fill_diagonal_(0.0), task.partition)
    return {"history": history, "map": rounded(map_)}


def begin(
    config: MaskedConfig, objective: str, form: str, seed: int
) -> tuple[Generator, StructuredTask, Learner, Labelled]:
    """What a training starts from. Raises ValueError if no patch is hidden in the samples that it is tested on."""
    generator, sizes = Generator().manual_seed(seed), config.task
    task = draw_task(sizes.num_patches, sizes.set_size, sizes.dim, sizes.noise_rate, generator)
    model = learner(config, objective, form, task, generator)
    test = draw(config, objective, task, config.test_samples, generator)
    if test.labels.isnan().all():
        raise ValueError(
            f"task.mask_rate {sizes.mask_rate} hides none of the patches that are tested on with seed {seed}"
        )
    return generator, task, model, test


def learner(
    config: MaskedConfig, objective: str, form: str, task: StructuredTask, generator: Generator
) -> Learner:
    """The student S X V of the reconstruction, or the simplified ViT of the labels, at its random start."""
    start: dict[str, Any] = {"init_std": config.init_std, "generator": generator}
    model: Learner = (
        SimplifiedViT(task.partition.num_patches, task.dim, **start)
        if objective == LABELS
        else reconstructor(task, **start)
    )
    return encode_positions(model, config.encoding_dim, **start) if form == ENCODED else model


def draw(
    config: MaskedConfig, objective: str, task: StructuredTask, n: int, generator: Generator
) -> Labelled:
    """Labelled samples, or samples with hidden patches."""
    if objective == LABELS:
        return task.sample(n, generator=generator)
    return masked(task, n, config.task.mask_rate, generator=generator)


@torch.no_grad()
def describe(model: Learner, objective: str, partition: Cover, test: Labelled) -> dict[str, float]:
    """Association off the diagonal, attention inside the sets, and the accuracy or the share of variance explained."""
    if objective == LABELS:
        learned = accuracy(model, test)
    else:
        nothing = masked_error(torch.zeros_like(test.patches), test.labels)
        learned = 1 - (masked_error(model(test.patches), test.labels) / nothing).item()
    others = scores(model).fill_diagonal_(-torch.inf).softmax(-1)
    return {
        "association": association_of_others(scores(model), partition),
        "mass": float(patch_association(others, partition).mass),
        "learned": learned,
    }


def scores(model: Learner) -> torch.Tensor:
    """A, with a held diagonal if the model has one."""
    return held_scores(model) if isinstance(model, SimplifiedViT) else model.scores.detach().clone()

"""Structured teachers beyond the paper: attention over positions alone recovers the true attention of each."""

from collections.abc import Callable
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.teachers import page
from posattn.recipes.teachers.settings import TeachersConfig
from posattn.runs.folder import RunFolder
from posattn.runs.seeds import over_seeds
from posattn.runs.sweep import sweep
from posattn.structure.distance import total_variation
from posattn.structure.partition import Partition
from posattn.theory import teachers as truths
from posattn.theory.descent import Step, descend
from posattn.theory.student import PositionStudent
from posattn.theory.teachers import Teacher, TeacherBatch
from posattn.theory.tracking import track

TEACHERS: dict[str, Callable[[TeachersConfig, Generator], Teacher]] = {
    "convolution, average pooling": lambda c, g: truths.convolution(
        Partition.random(c.num_patches, c.set_size, generator=g), dim=c.dim, outputs=c.outputs, generator=g
    ),
    "graph convolution": lambda c, g: truths.graph_convolution(
        truths.circulant_graph(c.num_patches, c.degree, generator=g),
        dim=c.dim,
        outputs=c.outputs,
        generator=g,
    ),
    "sparse token selection": lambda c, g: truths.token_selection(
        c.num_patches, c.selected, dim=c.dim, outputs=c.outputs, generator=g
    ),
    "group-sparse classification": lambda c, g: truths.group_sparse(c.num_patches, dim=c.dim, generator=g),
}


def run(config: TeachersConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every teacher, every seed; maps of the first seed."""
    for make in TEACHERS.values():  # checked before anything is trained
        make(config, Generator())
    seeds = range(config.seed, config.seed + config.seeds)
    settings = {f"{name}/seed={seed}": (name, config, seed) for name in TEACHERS for seed in seeds}
    found = sweep("teachers", settings, learn_teacher, run, progress)
    runs = {name: [found[f"{name}/seed={seed}"] for seed in seeds] for name in TEACHERS}
    maps = {f"map{k}": each[0]["maps"] for k, each in enumerate(runs.values())}
    run.save_tensors("teachers", {name: torch.tensor(pair) for name, pair in maps.items()})
    numbers = {name: summarise([each["history"] for each in every]) for name, every in runs.items()}
    return {
        "title": "Teachers that attention over positions can learn",
        "summary": "One student, softmax(A) over positions times a linear value, trained by plain gradient descent on "
        "four structured teachers whose true attention is known.",
        "step": runs[next(iter(TEACHERS))][0]["history"]["step"],
        "teachers": numbers,
        "page": page.sections(config, numbers),
    }


def learn_teacher(name: str, config: TeachersConfig, seed: int) -> dict[str, Any]:
    """Total variation (mean over rows) and loss over training, and the true and the recovered map at the end."""
    generator = Generator().manual_seed(seed)
    teacher = TEACHERS[name](config, generator)
    student = PositionStudent.for_teacher(teacher, generator=generator)

    def sample() -> TeacherBatch:
        return teacher.sample(config.batch_size, generator=generator)

    start = sample()
    loss = student.loss(student(start.patches), start.labels).item()

    def measure(step: Step) -> dict[str, float]:
        apart = total_variation(student.attention().detach(), teacher.attention).mean().item()
        return {"variation": apart, "loss": step.loss if step.updates else loss}

    rates = (config.rate * len(student.scores), config.value_rate)
    training = descend(student, sample, config.steps, rates[0], value_rate=rates[1], loss=student.loss)
    points = {*range(0, config.steps, max(1, config.steps // config.measurements)), config.steps}
    history = track(training, points, measure)
    return {"history": history, "maps": [square(teacher.attention), square(student.attention().detach())]}


def square(attention: torch.Tensor) -> list[list[float]]:
    """A (Q, D) map with each row repeated D / Q times, as figures show square maps."""
    Q, D = attention.shape
    return attention.repeat_interleave(D // Q, 0).tolist()


def summarise(histories: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, along training; the first and the last values of every seed."""
    return {
        **over_seeds([history["variation"] for history in histories]),
        "untrained": [history["variation"][0] for history in histories],
        "trained": [history["variation"][-1] for history in histories],
        "loss_before": [history["loss"][0] for history in histories],
        "loss_after": [history["loss"][-1] for history in histories],
    }

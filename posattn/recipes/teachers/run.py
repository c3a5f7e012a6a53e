"""Structured teachers beyond the paper: attention over positions alone recovers the true attention of each."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn.recipes.kit.theory import read_histories
from posattn.recipes.teachers.settings import TeachersConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Maps, Section, mean_lines, mean_table, to_plain
from posattn.runs.seeds import averaged_text, over_seeds
from posattn.runs.sweep import sweep_seeds
from posattn.structure.distance import total_variation
from posattn.structure.partition import Partition
from posattn.theory import teachers as truths
from posattn.theory.descent import Step, descend
from posattn.theory.student import PositionStudent
from posattn.theory.teachers import Teacher, TeacherBatch
from posattn.theory.tracking import History, evenly, track

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
    arms = {name: (name, config) for name in TEACHERS}
    runs = sweep_seeds("teachers", arms, config.all_seeds, learn_teacher, run, progress)
    maps = {f"map{index}": torch.tensor(ones[0]["maps"]) for index, ones in enumerate(runs.values())}
    run.save_tensors("teachers", maps)
    numbers = {name: summarise([one["history"] for one in ones]) for name, ones in runs.items()}
    return {
        "title": "Teachers that attention over positions can learn",
        "summary": "One student, softmax(A) over positions times a linear value, trained by plain gradient descent on "
        "four structured teachers whose true attention is known.",
        "step": runs[next(iter(TEACHERS))][0]["history"]["step"],
        "teachers": numbers,
        "page": to_plain([recovery_section(config, numbers)]),
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
        distance = total_variation(student.attention().detach(), teacher.attention).mean().item()
        return {"variation": distance, "loss": step.loss if step.updates else loss}

    rate = config.rate * len(student.scores)
    training = descend(student, sample, config.steps, rate, value_rate=config.value_rate, loss=student.loss)
    history = track(training, evenly(config.steps, config.measurements), measure)
    return {"history": history, "maps": [square(teacher.attention), square(student.attention().detach())]}


def square(attention: torch.Tensor) -> list[list[float]]:
    """A (Q, D) map with each row repeated D / Q times, as figures show square maps."""
    Q, D = attention.shape
    return attention.repeat_interleave(D // Q, 0).tolist()


def summarise(histories: list[History]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, along training; the first and the last values of every seed."""
    first, last = read_histories(histories, 0), read_histories(histories, -1)
    return {
        **over_seeds([history["variation"] for history in histories]),
        "untrained": first["variation"],
        "trained": last["variation"],
        "loss_before": first["loss"],
        "loss_after": last["loss"],
    }


def recovery_section(config: TeachersConfig, numbers: dict[str, Any]) -> Section:
    """How close the learned attention is to that of each teacher."""
    distances = ", ".join(
        f"from {fmean(one['untrained']):.3f} to {fmean(one['trained']):.3f} ({name})"
        for name, one in numbers.items()
    )
    claim = (
        "Total variation per row from the true attention of structured teachers that are not the paper's, in "
        f"{config.steps} steps: {distances}; {averaged_text('mean', config.seeds)}. "
        "0 is the true attention, 1 is disjoint from it."
    )
    curves = mean_lines(
        "Total variation per row over training",
        "step",
        {name: f"teachers.{name}.*" for name in numbers},
        "gradient step",
        "total variation from the true attention",
    )
    table = mean_table(
        "Recovered attention and loss",
        ["teacher", "variation, untrained", "variation, trained", "loss, untrained", "loss, trained"],
        {
            name: [one[when] for when in ("untrained", "trained", "loss_before", "loss_after")]
            for name, one in numbers.items()
        },
        digits=4,
        caption="Loss: mean squared error, for the classifier the logistic loss; on a batch of fresh samples.",
    )
    maps = [
        Maps(
            f"Attention: {name}",
            f"teachers:map{index}",
            ["true", "recovered"],
            x_label="position",
            y_label="query",
            caption="The first seed, each frame on its own scale; rows are repeated where queries are fewer.",
        )
        for index, name in enumerate(numbers)
    ]
    return Section("Recovered attention", claim, [curves, table, *maps])

"""Structured teachers beyond the paper: attention over positions alone recovers the true attention of each."""

from collections.abc import Callable
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn import checks
from posattn.recipes.teachers.settings import TeachersConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Maps, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.structure.distance import total_variation
from posattn.structure.partition import Partition
from posattn.theory import teachers as truths
from posattn.theory.descent import descend
from posattn.theory.student import PositionStudent
from posattn.theory.teachers import Teacher, TeacherBatch

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
    for make in TEACHERS.values():  # said before anything is trained
        make(config, Generator())
    seeds = [config.seed + index for index in range(checks.positive_int("seeds", config.seeds))]
    settings = {f"{name}/seed={seed}": (name, config, seed) for name in TEACHERS for seed in seeds}
    found = sweep("teachers", settings, learn_teacher, run, progress)
    maps = [found[f"{name}/seed={seeds[0]}"] for name in TEACHERS]
    pairs = {f"map{k}": torch.tensor([each["truth"], each["recovered"]]) for k, each in enumerate(maps)}
    run.save_tensors("teachers", pairs)
    numbers = {
        name: summarise([found[f"{name}/seed={seed}"]["history"] for seed in seeds]) for name in TEACHERS
    }
    return {
        "title": "Teachers that attention over positions can learn",
        "summary": "One student, softmax(A) over positions times a linear value, trained by plain gradient descent on "
        "four structured teachers whose true attention is known.",
        "step": maps[0]["history"]["step"],
        "teachers": numbers,
        "page": to_plain([teachers_section(config, numbers)]),
    }


def learn_teacher(name: str, config: TeachersConfig, seed: int) -> dict[str, Any]:
    """Total variation (mean over rows) and loss over training, and the maps at the end."""
    generator = Generator().manual_seed(seed)
    teacher = TEACHERS[name](config, generator)
    student = PositionStudent.of(teacher, generator=generator)
    history: dict[str, list[float]] = {"step": [], "variation": [], "loss": []}

    def measure(step: int, loss: float) -> None:
        apart = total_variation(student.attention().detach(), teacher.attention).mean().item()
        for key, number in zip(history, (step, apart, loss), strict=True):
            history[key].append(number)

    def sample() -> TeacherBatch:
        return teacher.sample(config.batch_size, generator=generator)

    every = max(1, config.steps // config.measurements)
    rate = config.rate * len(student.scores)
    start = sample()
    measure(0, student.loss(student(start.patches), start.labels).item())
    for step in descend(student, sample, config.steps, rate, value_rate=config.value_rate, loss=student.loss):
        if step.updates % every == 0 or step.updates == config.steps:
            measure(*step)
    maps = {"truth": teacher.attention, "recovered": student.attention().detach()}
    return {"history": history, **{key: square(each).tolist() for key, each in maps.items()}}


def square(attention: torch.Tensor) -> torch.Tensor:
    """A (Q, D) map with each row repeated D / Q times, as figures show square maps."""
    Q, D = attention.shape
    return attention.repeat_interleave(D // Q, 0)


def summarise(histories: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, along training; the untrained and the final values of every seed."""
    variation = [history["variation"] for history in histories]
    pairs = [mean_std(column) for column in zip(*variation, strict=True)]
    return {
        "mean": [mean for mean, _ in pairs],
        "std": [std for _, std in pairs],
        "untrained": [row[0] for row in variation],
        "trained": [row[-1] for row in variation],
        "loss_before": [history["loss"][0] for history in histories],
        "loss_after": [history["loss"][-1] for history in histories],
    }


def teachers_section(config: TeachersConfig, numbers: dict[str, Any]) -> Section:
    """What the teachers show."""
    apart = {name: mean_std(each["trained"])[0] for name, each in numbers.items()}
    floor = min(min(each["untrained"]) for each in numbers.values())
    claim = (
        "Attention over positions recovers the true attention of structured teachers that are not the paper's. Here "
        f"the total variation a row fell from at least {floor:.2f} before training to "
        + ", ".join(f"{value:.3f} ({name})" for name, value in apart.items())
        + f", mean over {config.seeds} seeds; 0 is the true attention, 1 reads none of it."
    )
    rows = [
        [
            name,
            mean_std_text(each["untrained"], 4),
            mean_std_text(each["trained"], 4),
            f"{mean_std(each['loss_before'])[0]:.3g}",
            f"{mean_std(each['loss_after'])[0]:.3g}",
        ]
        for name, each in numbers.items()
    ]
    columns = ["teacher", "variation, untrained", "variation, trained", "loss, untrained", "loss, trained"]
    return Section(
        "Recovered attention",
        claim,
        [
            Lines(
                "Total variation a row over training",
                "step",
                {name: f"teachers.{name}.mean" for name in numbers},
                {name: f"teachers.{name}.std" for name in numbers},
                x_label="gradient step",
                y_label="total variation from the true attention",
                caption=f"Mean and standard deviation over {config.seeds} seeds.",
            ),
            Table(
                "Recovered attention and loss",
                columns,
                rows,
                caption="Loss: mean squared error, for the classifier the logistic loss; on the last batch.",
            ),
            *(
                Maps(
                    f"Attention: {name}",
                    f"teachers:map{index}",
                    ["true", "recovered"],
                    x_label="position",
                    y_label="query",
                    caption="The first seed, each frame on its own scale; rows are repeated where queries are fewer.",
                )
                for index, name in enumerate(numbers)
            ),
        ],
    )

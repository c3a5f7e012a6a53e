"""Patch association from random initialisation, in both settings of the paper and both forms of the scores."""

import math
from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn import checks
from posattn.recipes.association.settings import AssociationConfig, Setting
from posattn.recipes.demo.structure import chance_below_diagonal
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Maps, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
from posattn.runs.sweep import sweep
from posattn.structure.partition import Partition
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT, encode_positions, small_noise_rate
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import evenly, first_full, over_seeds, rounded, track

FREE, ENCODED = "A free", "A = P Pᵀ"


def run(config: AssociationConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every training of every seed; the maps of the first."""
    checks.positive_int("seeds", config.seeds)
    arms = {
        f"{setting}, {form}": (getattr(config, setting), form)
        for setting in ("small", "analysis")
        for form in (FREE, ENCODED)
    }
    keys = {
        (arm, index): f"{arm}, seed={config.seed + index}" for arm in arms for index in range(config.seeds)
    }
    settings = {key: (config, *arms[arm], config.seed + index) for (arm, index), key in keys.items()}
    found = sweep("association", settings, train_one, run, progress)
    numbers, tensors = {}, {}
    for arm in arms:
        runs = [found[keys[arm, index]] for index in range(config.seeds)]
        tensors[arm] = torch.tensor(runs[0]["maps"])
        numbers[arm] = {
            "step": runs[0]["history"]["step"],
            "frames": runs[0]["frames"],
            "chance": runs[0]["chance"],
            **over_seeds([each["history"] for each in runs]),
            "last": {k: [each["history"][k][-1] for each in runs] for k in runs[0]["history"]},
            "first": {k: [each["history"][k][0] for each in runs] for k in runs[0]["history"]},
            "complete": [first_full(each["history"]) for each in runs],
        }
    run.save_tensors("association", tensors)
    return {
        "title": "Gradient descent finds the hidden sets",
        "summary": "Patch association from random initialisation, over time, in both settings of arXiv 2210.09221.",
        "association": numbers,
        "page": to_plain(
            [setting_section(name, getattr(config, name), numbers) for name in ("small", "analysis")]
        ),
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
    history, maps = track(model, task, test, training, evenly(setting.steps, config.measurements))
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
    task = StructuredTask(
        partition, dim=d, noise_rate=noise_rate, noise_std=setting.noise_std, generator=generator
    )
    form_of_model = (setting.power, setting.linear, diagonal, setting.scale)
    model = SimplifiedViT(D, d, *form_of_model, init_std=setting.init_std, generator=generator)
    if form == ENCODED:
        encode_positions(model, setting.encoding_dim, init_std=setting.init_std, generator=generator)
    return task, model


HEADINGS = {
    "small": "The paper's small experiments",
    "analysis": "The setting of the analysis, in unit-norm steps",
}
MEASURES = {
    "association": "patch association",
    "mass": "attention inside the sets",
    "accuracy": "test accuracy",
    "alignment": "cos(v, w*)",
}


def setting_section(name: str, setting: Setting, numbers: dict[str, Any]) -> Section:
    """What one setting shows."""
    arms = {form: f"{name}, {form}" for form in (FREE, ENCODED)}
    figures = [
        Lines(
            title[0].upper() + title[1:],
            f"association.{arms[FREE]}.step",
            {form: f"association.{arm}.mean.{measure}" for form, arm in arms.items()},
            {form: f"association.{arm}.std.{measure}" for form, arm in arms.items()},
            x_label="gradient step",
            y_label=title,
        )
        for measure, title in MEASURES.items()
    ]
    maps = [
        Maps(
            f"Scores over training, {form}",
            f"association:{arm}",
            numbers[arm]["frames"],
            caption="Patches reordered by their set, the fixed diagonal left out; each frame on its own colour scale.",
        )
        for form, arm in arms.items()
    ]
    return Section(
        HEADINGS[name], claim(setting, arms, numbers), [*figures, *maps, last_table(arms, numbers)]
    )


def claim(setting: Setting, arms: dict[str, str], numbers: dict[str, Any]) -> str:
    """What was measured, in words."""
    steps = f"{setting.steps} {'unit-norm' if setting.normalize else 'plain'} gradient steps"
    free = numbers[arms[FREE]]
    seeds, ends, masses = len(free["complete"]), [], []
    for form, arm in arms.items():
        first, last = numbers[arm]["first"], numbers[arm]["last"]
        gone = f"from {mean_std_text(first['association'])} to {mean_std_text(last['association'])}"
        ends.append(f"{gone} with {form} (complete in {len(reached(numbers[arm]))} of {seeds} seeds)")
        masses.append(f"from {mean_std(first['mass'])[0]:.3f} to {mean_std(last['mass'])[0]:.3f}")
    return (
        f"In {steps} from random initialisation patch association goes {' and '.join(ends)}; chance under the fixed "
        f"diagonal is {free['chance']:.3f}. Association is the order of a row's scores, not how much they differ: the "
        f"attention inside the sets goes {' and '.join(masses)}."
    )


def reached(arm: dict[str, Any]) -> list[float]:
    """The steps at which association was seen complete, of the seeds in which it was."""
    return [step for step in arm["complete"] if step is not None]


def last_table(arms: dict[str, str], numbers: dict[str, Any]) -> Table:
    """The measures at the end."""
    columns = ["", "association", "mass inside", "accuracy", "cos(v, w*)", "exact rows", "complete at step"]
    rows = []
    for form, arm in arms.items():
        last, steps = numbers[arm]["last"], reached(numbers[arm])
        ends = [mean_std_text(last[measure]) for measure in (*MEASURES, "exact")]
        rows.append([form, *ends, mean_std_text(steps, 0) if steps else "not reached"])
    count = len(numbers[arms[FREE]]["complete"])
    caption = "The step is the first one measured, over the seeds that reached it."
    return Table(f"At the end, mean ± std over {count} seeds", columns, rows, caption)

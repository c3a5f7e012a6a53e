"""Act one: gradient descent finds the hidden structure, though another solution generalises as well."""

from typing import Any

import torch
from rich.progress import Progress
from torch import Generator

from posattn import checks
from posattn.recipes.demo.settings import StructureConfig
from posattn.recipes.kit.theory import draw_task
from posattn.runs.folder import RunFolder
from posattn.runs.page import Lines, Maps, Section, Table
from posattn.theory import solutions
from posattn.theory.descent import Step, descend
from posattn.theory.simplified import SimplifiedViT, small_noise_rate
from posattn.theory.tracking import chance_below_diagonal, describe, evenly, first_full, off_diagonal, track


def find_structure(config: StructureConfig, seed: int, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train, measure on the way, and compare with constructed solutions."""
    generator = Generator().manual_seed(seed)
    set_size = checks.divides("num_sets", config.num_sets, "num_patches", config.num_patches)
    noise_rate = small_noise_rate(config.num_patches, config.dim)
    task = draw_task(config.num_patches, set_size, config.dim, noise_rate, generator)
    partition = task.partition
    model = SimplifiedViT.small(config.num_patches, config.dim, generator=generator)
    test = task.sample(config.test_samples, generator=generator)
    bar, maps = progress.add_task("structure: steps", total=config.steps), []

    def measure(step: Step) -> dict[str, float]:
        row = describe(model, task, test)
        run.log("structure", step=step.updates, **row)
        progress.update(bar, completed=step.updates)
        maps.append(off_diagonal(model, partition))
        return row

    training = descend(
        model, lambda: task.sample(config.batch_size, generator=generator), config.steps, config.rate
    )
    try:
        history = track(training, evenly(config.steps, config.measurements), measure)
    except FloatingPointError:  # the model holds the last parameters whose loss was finite
        run.save_tensors("structure-last-good", model.state_dict())
        raise
    run.save_tensors("structure", {"maps": torch.stack(maps), "scores": model.scores, "value": model.value})
    options = {name: getattr(model, name) for name in ("power", "linear", "diagonal", "scale")}
    shift = torch.arange(config.num_sets).roll(1)
    models = {
        "learned": model,
        "associated by hand": solutions.associated(partition, task, **options),
        "permuted sets by hand": solutions.permuted(partition, task, shift, **options),
    }
    found = {name: describe(model, task, test) for name, model in models.items()}
    return {"history": history, "solutions": found, "chance": chance_below_diagonal(partition)}


def structure_section(numbers: dict[str, Any]) -> Section:
    """The section of act one."""
    history, found = numbers["history"], numbers["solutions"]
    start, end = history["association"][0], history["association"][-1]
    full = first_full(history)
    reached = "" if full is None else f", complete at step {full:g}"
    permuted = found["permuted sets by hand"]
    claim = (
        f"By gradient descent from random initialisation patch association went from {start:.2f} (chance is "
        f"{numbers['chance']:.2f}) to {end:.2f}{reached}; the test accuracy of what it learned is "
        f"{found['learned']['accuracy']:.2f}. The solution with the sets permuted has accuracy "
        f"{permuted['accuracy']:.2f} and association {permuted['association']:.2f}."
    )
    measures = {
        "accuracy": "test accuracy",
        "association": "patch association",
        "mass": "attention inside the sets",
    }
    rows = [[name, *(f"{one[measure]:.3f}" for measure in measures)] for name, one in found.items()]
    items = [
        Lines(
            "Accuracy and patch association over training",
            "history.step",
            {name: f"history.{name}" for name in ("accuracy", "association")},
            x_label="gradient step",
            caption="Association: the share of each row's C largest scores that lie in the patch's own set. "
            "The fixed diagonal is one of them, hence chance above C / D.",
        ),
        Lines(
            "Loss over training",
            "history.step",
            {"loss": "history.loss"},
            x_label="gradient step",
            y_label="test loss",
        ),
        Maps(
            "Scores A over training, patches reordered by their set",
            "structure:maps",
            [f"step {step}" for step in history["step"]],
            caption="Each frame on its own colour scale, without the fixed diagonal. Sets become squares.",
        ),
        Table("Three solutions", ["solution", *measures.values()], rows),
    ]
    return Section("Structure", claim, items, at="structure")

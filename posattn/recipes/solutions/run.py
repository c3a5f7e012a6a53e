"""Solutions written by hand, with the structure and without it, and where training goes from near each."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.progress import Progress
from scipy.optimize import brentq
from torch import Generator

from posattn.recipes.kit.theory import draw_task, exact
from posattn.recipes.solutions import page
from posattn.recipes.solutions.settings import SolutionsConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import collect
from posattn.runs.sweep import sweep_seeds
from posattn.shapes import Patches, Scores
from posattn.structure.distance import total_variation
from posattn.structure.partition import Partition
from posattn.theory import solutions as by_hand
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import Batch, StructuredTask
from posattn.theory.tracking import by_set, describe, rounded


def shifted(partition: Partition, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """The permuted solution in which set ℓ reads set ℓ - 1."""
    return by_hand.permuted(partition, task, torch.arange(partition.num_sets).roll(1), **options)


FAMILIES: dict[str, Callable[..., SimplifiedViT]] = {
    "associated": by_hand.associated,
    "permuted sets": shifted,
    "delegates, others uniform": by_hand.delegates,
    "uniform attention": by_hand.uniform,
    "delegates, others on themselves": partial(by_hand.delegates, others="themselves"),
}


def run(config: SolutionsConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every family as built, and trained from near it at every noise, for every seed."""
    arms = {family: (config, family) for family in FAMILIES}
    runs = sweep_seeds("solutions", arms, config.all_seeds, build_and_train, run, progress)
    maps = {
        f"{family} {when}": map_ for family, ones in runs.items() for when, map_ in ones[0]["maps"].items()
    }
    run.save_tensors("solutions", {"maps": torch.tensor(list(maps.values()))})
    numbers = {family: collect([one["numbers"] for one in ones]) for family, ones in runs.items()}
    return {
        "title": "Many solutions generalise, some without the structure",
        "summary": "Solutions of the structured task written by hand, and where gradient descent goes from near each.",
        "solutions": numbers,
        "page": to_plain([page.built_section(numbers, list(maps)), page.trained_section(config, numbers)]),
    }


def build_and_train(config: SolutionsConfig, family: str, seed: int) -> dict[str, Any]:
    """A solution as built, then trained from near it at each noise; the maps where the seed is the first."""
    generator = Generator().manual_seed(seed)
    task = draw_task(config.num_patches, config.set_size, config.dim, config.noise_rate, generator)
    test = task.sample(config.test_samples, generator=generator)
    options = {name: getattr(config, name) for name in ("power", "linear", "diagonal", "scale")}
    built = FAMILIES[family](task.partition, task, **options)
    if not built(test.patches).any():
        given = ", ".join(f"{name} {options[name]:g}" for name in ("power", "linear", "scale"))
        raise ValueError(f"F(X) of the solution as built underflows to 0 for every sample: {given}")
    goal = built.attention().detach()
    maps, trained = {"as built": goal}, []
    for noise in config.noises:
        model = FAMILIES[family](task.partition, task, **options)
        start_near(model, noise, config, test, generator)
        start = describe_near(model, task, test, goal)
        sizes = (config.batch_size, config.steps, config.rate)
        for _ in descend_in_law(model, task, *sizes, value_rate=config.value_rate, generator=generator):
            pass
        trained.append({"start": start, "end": describe_near(model, task, test, goal)})
        maps[f"trained from noise {exact(noise)}"] = model.attention().detach()
    shown = maps if seed == config.seed else {}
    return {
        "numbers": {"built": describe(built, task, test), "trained": trained},
        "maps": {when: rounded(by_set(map_, task.partition)) for when, map_ in shown.items()},
    }


@torch.no_grad()
def start_near(
    model: SimplifiedViT, noise: float, config: SolutionsConfig, test: Batch, generator: Generator
) -> None:
    """Soften the scores, add noise to A and v, and scale v to the margin; in place."""
    scores, value = model.scores.data, model.value.data
    scores.sub_(model.diagonal).mul_(config.sharpness).add_(model.diagonal)
    scores.add_(torch.randn(scores.shape, generator=generator), alpha=noise).fill_diagonal_(model.diagonal)
    direction = torch.randn(value.shape, generator=generator)
    value.add_(direction, alpha=0.1 * noise / direction.norm().item())
    value.mul_(length_for(model, test.patches, config.margin))


@torch.no_grad()
def length_for(model: SimplifiedViT, patches: Patches, margin: float) -> float:
    """The factor of v at which the mean |F(X)| is ``margin``."""
    z = (model.scale * (patches @ model.value) @ model.attention().T).double()
    largest = z.abs().max().item()

    def excess(log_factor: float) -> float:
        logits = model.activation(math.exp(log_factor) / largest * z).sum(-1)
        return logits.abs().mean().item() - margin

    # by factors of e, from a largest entry of 1: a far end of the search overflows in z^p
    step = 1.0 if excess(0.0) < 0 else -1.0
    end = next(at for at in itertools.count(step, step) if step * excess(at) >= 0)
    return math.exp(brentq(excess, end - step, end)) / largest


def describe_near(model: SimplifiedViT, task: StructuredTask, test: Batch, goal: Scores) -> dict[str, float]:
    """``describe`` and the distance of the map from ``goal``: total variation, mean over the rows."""
    distance = total_variation(model.attention().detach(), goal).mean().item()
    return {**describe(model, task, test), "distance": distance}

"""Solutions written by hand, with the structure and without it, and where training goes from near each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import Progress
from scipy.optimize import brentq
from torch import Generator

from posattn.recipes.solutions import page
from posattn.recipes.solutions.settings import SolutionsConfig
from posattn.runs.folder import RunFolder
from posattn.runs.sweep import sweep
from posattn.shapes import Patches, Scores
from posattn.structure.partition import Partition
from posattn.theory import solutions as by_hand
from posattn.theory.in_law import descend_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import Batch, StructuredTask
from posattn.theory.tracking import by_set, describe, rounded

Build = Callable[..., SimplifiedViT]


def shifted(partition: Partition, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """The permuted solution in which set ℓ reads set ℓ - 1."""
    return by_hand.permuted(partition, task, torch.arange(partition.num_sets).roll(1), **options)


def alone(partition: Partition, task: StructuredTask, **options: Any) -> SimplifiedViT:
    """Delegates; all other queries read themselves."""
    return by_hand.delegates(partition, task, others="themselves", **options)


FAMILIES: dict[str, Build] = {
    "associated": by_hand.associated,
    "permuted sets": shifted,
    "delegates, others uniform": by_hand.delegates,
    "uniform attention": by_hand.even,
    "delegates, others on themselves": alone,
}


def run(config: SolutionsConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every family as built, and trained from near it at every noise, for every seed."""
    seeds = range(config.seed, config.seed + config.seeds)
    settings = {f"{family}, seed={seed}": (config, family, seed) for family in FAMILIES for seed in seeds}
    found = sweep("solutions", settings, one_family, run, progress)
    runs = {family: [found[f"{family}, seed={seed}"] for seed in seeds] for family in FAMILIES}
    maps = {f"{f} {when}": map_ for f, each in runs.items() for when, map_ in each[0]["maps"].items()}
    run.save_tensors("solutions", {"maps": torch.tensor(list(maps.values()))})
    numbers = {family: collect([each["numbers"] for each in every]) for family, every in runs.items()}
    return {
        "title": "Many solutions generalise, some without the structure",
        "summary": "Solutions of the structured task written by hand, and where gradient descent goes from near each.",
        "solutions": numbers,
        "page": page.sections(config, numbers, list(maps)),
    }


def collect(trees: list[Any]) -> Any:
    """Equal trees of numbers, one per seed, as one tree of lists."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: collect([tree[name] for tree in trees]) for name in first}
    if isinstance(first, list):
        return [collect(list(items)) for items in zip(*trees, strict=True)]
    return trees


def one_family(config: SolutionsConfig, family: str, seed: int) -> dict[str, Any]:
    """A solution as built, then from near it at each noise; the maps where the seed is the first."""
    generator = Generator().manual_seed(seed)
    partition = Partition.random(config.num_patches, config.set_size, generator=generator)
    task = StructuredTask(partition, dim=config.dim, noise_rate=config.noise_rate, generator=generator)
    test = task.sample(config.test_samples, generator=generator)
    names = ("power", "linear", "diagonal", "scale")
    options = {name: getattr(config, name) for name in names}

    def build() -> SimplifiedViT:
        return FAMILIES[family](partition, task, **options)

    goal = build().attention().detach()
    shown = {"as built": goal}
    trained = []
    for noise in config.noises:
        model = start_near(build(), noise, config, test, generator)
        start = describe_near(model, task, test, goal)
        sizes = (config.batch_size, config.steps, config.rate)
        for _ in descend_in_law(model, task, *sizes, value_rate=config.value_rate, generator=generator):
            pass
        trained.append({"start": start, "end": describe_near(model, task, test, goal)})
        shown[f"trained from noise {noise:g}"] = model.attention().detach()
    keep = seed == config.seed
    maps = {when: rounded(by_set(map_, partition)) for when, map_ in shown.items()} if keep else {}
    return {"numbers": {"built": describe(build(), task, test), "trained": trained}, "maps": maps}


@torch.no_grad()
def start_near(
    model: SimplifiedViT, noise: float, config: SolutionsConfig, test: Batch, generator: Generator
) -> SimplifiedViT:
    """The solution with softer scores, noise on A and v, and v scaled to the margin; in place."""
    scores, value = model.scores.data, model.value.data
    scores.sub_(model.diagonal).mul_(config.sharpness).add_(model.diagonal)
    scores.add_(torch.randn(scores.shape, generator=generator), alpha=noise).fill_diagonal_(model.diagonal)
    direction = torch.randn(value.shape, generator=generator)
    value.add_(direction, alpha=0.1 * noise / direction.norm().item())
    value.mul_(length_for(model, test.patches, config.margin))
    return model


@torch.no_grad()
def length_for(model: SimplifiedViT, patches: Patches, margin: float) -> float:
    """The factor of v at which the mean |F(X)| is ``margin``."""
    z = model.scale * (patches @ model.value) @ model.attention().T

    def excess(log_factor: float) -> float:
        logits = model.activation(math.exp(log_factor) * z).sum(-1)
        return logits.abs().mean().item() - margin

    return math.exp(brentq(excess, -20.0, 20.0))


def describe_near(model: SimplifiedViT, task: StructuredTask, test: Batch, goal: Scores) -> dict[str, float]:
    """``describe`` and the distance of the map from ``goal``: total variation, mean over the rows."""
    distance = (model.attention().detach() - goal).abs().sum(-1).mean().item() / 2
    return {**describe(model, task, test), "distance": distance}

"""Solutions written by hand, with the structure and without it, and where training goes from near each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import Progress
from scipy.optimize import brentq
from torch import Generator

from posattn import checks
from posattn.recipes.solutions.settings import SolutionsConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import Gallery, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text
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
    """Delegates, with all others on themselves."""
    return by_hand.delegates(partition, task, others="themselves", **options)


FAMILIES: dict[str, Build] = {
    "associated": by_hand.associated,
    "permuted sets": shifted,
    "delegates, others even": by_hand.delegates,
    "everybody even": by_hand.even,
    "delegates, others on themselves": alone,
}


def run(config: SolutionsConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every family as built, and trained from near it at every noise, for every seed."""
    seeds = range(config.seed, config.seed + checks.positive_int("seeds", config.seeds))
    settings = {f"{family}, seed={seed}": (config, family, seed) for family in FAMILIES for seed in seeds}
    found = sweep("solutions", settings, one_family, run, progress)
    runs = {family: [found[f"{family}, seed={seed}"] for seed in seeds] for family in FAMILIES}
    tensors = {f"{f} {when}": each[0]["maps"][when] for f, each in runs.items() for when in each[0]["maps"]}
    run.save_tensors("solutions", {"maps": torch.stack([torch.tensor(map_) for map_ in tensors.values()])})
    numbers = {
        family: {
            "built": collect([each["built"] for each in every]),
            "trained": [
                {when: collect([each["trained"][i][when] for each in every]) for when in ("start", "end")}
                for i in range(len(config.noises))
            ],
        }
        for family, every in runs.items()
    }
    sections = [built_section(numbers, list(tensors)), trained_section(numbers, config)]
    return {
        "title": "Many solutions generalise, some without the structure",
        "summary": "Solutions of the structured task written by hand, and where gradient descent goes from near each.",
        "solutions": numbers,
        "page": to_plain(sections),
    }


def collect(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Each measure over the seeds."""
    return {name: [row[name] for row in rows] for name in rows[0]}


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
        train(model, task, config, generator)
        trained.append({"start": start, "end": describe_near(model, task, test, goal)})
        shown[f"trained from noise {noise:g}"] = model.attention().detach()
    keep = seed == config.seed
    maps = {when: rounded(by_set(map_, partition)) for when, map_ in shown.items()} if keep else {}
    return {"built": describe(build(), task, test), "trained": trained, "maps": maps}


def train(model: SimplifiedViT, task: StructuredTask, config: SolutionsConfig, generator: Generator) -> None:
    """Plain gradient descent, exact in law."""
    sizes = (config.batch_size, config.steps, config.rate)
    for _ in descend_in_law(model, task, *sizes, value_rate=config.value_rate, generator=generator):
        pass


@torch.no_grad()
def start_near(
    model: SimplifiedViT, noise: float, config: SolutionsConfig, test: Batch, generator: Generator
) -> SimplifiedViT:
    """The solution with softer scores, noise on A and v, and v scaled to the margin; in place."""
    noise = checks.finite("noise", noise, 0.0)
    scores, value = model.scores.data, model.value.data
    scores.sub_(model.diagonal).mul_(checks.finite("sharpness", config.sharpness, 0.0)).add_(model.diagonal)
    scores.add_(torch.randn(scores.shape, generator=generator), alpha=noise).fill_diagonal_(model.diagonal)
    direction = torch.randn(value.shape, generator=generator)
    value.add_(direction, alpha=0.1 * noise / direction.norm().item())
    value.mul_(length_for(model, test.patches, checks.positive("margin", config.margin)))
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


def built_section(numbers: dict[str, Any], labels: list[str]) -> Section:
    """The solutions as written."""
    accuracy = {family: mean_std(each["built"]["accuracy"])[0] for family, each in numbers.items()}
    association = {family: mean_std(each["built"]["association"])[0] for family, each in numbers.items()}
    said = [f"{family} {accuracy[family]:.3f} ({association[family]:.2f})" for family in numbers]
    claim = f"Generalising does not take the structure. Test accuracy (patch association): {'; '.join(said)}."
    measures = {
        "accuracy": "test accuracy",
        "association": "patch association",
        "exact": "exact rows",
        "mass": "mass",
    }
    rows = [
        [
            family,
            *(mean_std_text(each["built"][name]) for name in measures),
            f"{mean_std(each['built']['loss'])[0]:.3g}",
        ]
        for family, each in numbers.items()
    ]
    columns = ["solution", *measures.values(), "test loss"]
    table = Table(
        "As built, mean ± std over seeds", columns, rows, "Mass: the share of attention inside the own set."
    )
    maps = Gallery(
        "Attention maps as built and after training",
        "solutions:maps",
        labels,
        caption="Rows are queries, patches reordered by their set, first seed; each map on its own colour scale.",
    )
    return Section("Solutions by hand", claim, [table, maps])


def trained_section(numbers: dict[str, Any], config: SolutionsConfig) -> Section:
    """Where training goes."""
    said = []
    for family, each in numbers.items():
        ends = each["trained"][-1]
        before, after = (mean_std(ends[when]["distance"])[0] for when in ("start", "end"))
        where = "nearer" if after < before else "farther"
        said.append(
            f"{family}: {where} ({before:.3f} to {after:.3f}), accuracy {mean_std(ends['end']['accuracy'])[0]:.3f}, "
            f"association {mean_std(ends['end']['association'])[0]:.2f}"
        )
    claim = (
        f"Whether training from noise {config.noises[-1]:g} around a solution ends nearer to it or farther from it "
        f"(total variation of the maps), and what it ends with: {'; '.join(said)}."
    )
    tables = [trained_table(numbers, config, index) for index in range(len(config.noises))]
    return Section("Where training goes from near each", claim, [*tables])


def trained_table(numbers: dict[str, Any], config: SolutionsConfig, index: int) -> Table:
    """Before and after, at one noise."""
    measures = ("distance", "accuracy", "loss", "association")
    rows = [
        [family, *(f"{mean_std(start[name])[0]:.3f} → {mean_std_text(end[name])}" for name in measures)]
        for family, each in numbers.items()
        for start, end in [(each["trained"][index]["start"], each["trained"][index]["end"])]
    ]
    caption = (
        f"{config.steps} plain gradient steps; start → end, std over {config.seeds} seeds. Distance: to the map "
        f"as built. Start: {config.sharpness:g} of the score differences, a mean |F(X)| of {config.margin:g}."
    )
    return Table(
        f"Training from near each solution, noise {config.noises[index]:g} on A",
        ["near", *measures],
        rows,
        caption,
    )

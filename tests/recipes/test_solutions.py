"""The solutions recipe at its smoke setting, and the starts it makes."""

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file
from torch import Generator

from posattn import cli
from posattn.recipes.solutions.page import moved_text
from posattn.recipes.solutions.run import FAMILIES, build_and_train, length_for, start_near
from posattn.recipes.solutions.settings import SolutionsConfig
from posattn.structure.partition import Partition
from posattn.theory import solutions as by_hand
from posattn.theory.task import StructuredTask

GENERAL = ("associated", "permuted sets", "delegates, others uniform")


@pytest.mark.usefixtures("unchecked")
def test_the_smoke_run_shows_what_generalises_and_what_training_keeps(tmp_path: Path) -> None:
    cli.main(["run", "solutions", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())["solutions"]
    for family in FAMILIES:
        built, trained = result[family]["built"], result[family]["trained"][0]
        distance = {when: fmean(trained[when]["distance"]) for when in ("start", "end")}
        if family in GENERAL:
            assert min(built["accuracy"]) > 0.99
            assert distance["end"] < distance["start"]
        else:
            assert max(built["accuracy"]) < 0.95
            assert distance["end"] > distance["start"]
    assert result["associated"]["built"]["association"] == [1.0]
    assert result["permuted sets"]["built"]["association"] == [0.0]
    assert result["permuted sets"]["trained"][0]["end"]["association"][0] < 0.05
    maps = load_file(tmp_path / "run" / "solutions.safetensors")["maps"]
    assert maps.shape == (2 * len(FAMILIES), 128, 128)
    assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-2)


def test_a_solution_whose_logits_underflow_is_refused() -> None:
    config = SolutionsConfig(num_patches=32, set_size=4, dim=8, power=9, linear=0.0, scale=1e-6)
    with pytest.raises(ValueError, match="underflows to 0 for every sample: power 9, linear 0, scale 1e-06"):
        build_and_train(config, "associated", 0)


def test_nearer_and_farther_are_said_of_what_is_shown() -> None:
    assert moved_text(0.5, 0.4) == "nearer (0.500 to 0.400)"
    assert moved_text(0.4, 0.5) == "farther (0.400 to 0.500)"
    assert moved_text(0.0681, 0.0682) == moved_text(0.0682, 0.0681) == "at the same distance (0.068)"


@pytest.fixture
def task(generator: Generator) -> StructuredTask:
    return StructuredTask(
        Partition.random(32, 4, generator=generator), dim=16, noise_rate=0.3, generator=generator
    )


@pytest.mark.parametrize("margin", [0.3, 1.0, 7.0])
def test_v_is_scaled_to_the_margin(margin: float, task: StructuredTask, generator: Generator) -> None:
    model = by_hand.delegates(task.partition, task)
    patches = task.sample(100, generator=generator).patches
    model.value.data *= length_for(model, patches, margin)
    assert model(patches).abs().mean().item() == pytest.approx(margin, rel=1e-4)


@pytest.mark.parametrize("power", [5, 9, 51])
def test_v_is_scaled_to_the_margin_at_every_power(
    power: int, task: StructuredTask, generator: Generator
) -> None:
    model = by_hand.associated(task.partition, task, power=power, scale=1.0)
    patches = task.sample(100, generator=generator).patches
    model.value.data *= length_for(model, patches, 1.0)
    assert model(patches).abs().mean().item() == pytest.approx(1.0, rel=1e-4)


def test_a_start_without_noise_is_the_solution_with_softer_scores(
    task: StructuredTask, generator: Generator
) -> None:
    built = by_hand.associated(task.partition, task, diagonal=1.5)
    test = task.sample(50, generator=generator)
    near = by_hand.associated(task.partition, task, diagonal=1.5)
    start_near(near, 0.0, SolutionsConfig(sharpness=0.25), test, generator)
    assert torch.allclose(near.scores, 1.5 + 0.25 * (built.scores - 1.5), atol=1e-6)
    assert torch.allclose(near.value / near.value.norm(), task.feature, atol=1e-6)


def test_noise_on_the_scores_has_the_size_it_says(task: StructuredTask, generator: Generator) -> None:
    config = SolutionsConfig(sharpness=1.0)
    built, near = (by_hand.uniform(task.partition, task) for _ in range(2))
    start_near(near, 0.7, config, task.sample(50, generator=generator), generator)
    difference = (near.scores - built.scores)[~torch.eye(32, dtype=torch.bool)]
    assert difference.std().item() == pytest.approx(0.7, rel=0.1)
    assert near.scores.diagonal().tolist() == [near.diagonal] * 32

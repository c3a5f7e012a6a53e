"""The association recipe at its smoke setting, and the starts it makes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Generator

from posattn import cli
from posattn.recipes.association.page import ENCODED, FREE, setting_section
from posattn.recipes.association.run import spread, start, train_one
from posattn.recipes.association.settings import ANALYSIS, AssociationConfig, Setting
from posattn.structure.partition import Partition


def test_the_smoke_run_finds_the_sets(tmp_path: Path) -> None:
    cli.main(["run", "association", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    arms = result["association"]
    assert set(arms) == {
        f"{setting}, {form}" for setting in ("small", "analysis") for form in (FREE, ENCODED)
    }
    for arm in ("small, A free", "analysis, A free", "analysis, A = P Pᵀ"):
        assert max(arms[arm]["first"]["association"]) < arms[arm]["chance"] + 0.1
        assert min(arms[arm]["last"]["association"]) > 2 * arms[arm]["chance"]
        assert min(arms[arm]["last"]["alignment"]) > 0.9
    assert arms["analysis, A free"]["last"]["association"] == [1.0, 1.0]
    assert arms["analysis, A free"]["mean"]["accuracy"][-1] > arms["analysis, A free"]["mean"]["accuracy"][0]
    maps = load_file(tmp_path / "run" / "association.safetensors")["analysis, A free"]
    assert len(maps) == len(arms["analysis, A free"]["frames"])
    same = Partition.contiguous(maps.shape[-1], ANALYSIS.set_size).same.fill_diagonal_(False)
    assert maps[-1][same].mean() > maps[-1][~same].max()


@pytest.mark.parametrize(("diagonal", "chance"), [(2.0, (1 + 9 / 15) / 4), (-1.0, 3 / 15)])
def test_the_chance_is_that_of_the_diagonal_held(diagonal: float, chance: float) -> None:
    setting = Setting(num_patches=16, dim=8, diagonal=diagonal, steps=1, batch_size=4)
    config = AssociationConfig(setting, seeds=1, measurements=1, frames=1, test_samples=4)
    assert train_one(config, setting, FREE, 0)["chance"] == pytest.approx(chance)


def test_the_section_says_how_the_steps_are() -> None:
    ends = {name: [0.25, 0.25] for name in ("association", "mass", "accuracy", "alignment", "exact")}
    arm = {"first": ends, "last": ends, "complete": [None, None], "frames": [], "chance": 0.4}
    numbers = {f"analysis, {FREE}": arm, f"analysis, {ENCODED}": {**arm, "chance": 0.3}}
    plain, unit = (
        setting_section("analysis", replace(ANALYSIS, normalize=normalize), numbers)
        for normalize in (False, True)
    )
    assert plain.title == "The setting of the analysis"
    assert "plain gradient steps" in plain.claim
    assert unit.title == "The setting of the analysis, in unit-norm steps"
    assert "chance under the fixed diagonal is 0.400 and 0.300" in plain.claim


def test_what_is_left_out_follows_the_paper(generator: Generator) -> None:
    task, model = start(Setting(num_patches=32, dim=50), FREE, generator)
    assert task.noise_rate == pytest.approx(math.log(50) / 32)
    assert model.diagonal == pytest.approx(math.log(math.log(50)))
    assert task.noise_std == pytest.approx(50**-0.5)
    task, model = start(replace(ANALYSIS, diagonal=1.5, noise_std=0.0), FREE, generator)
    assert (model.diagonal, model.scale, task.noise_std) == (1.5, ANALYSIS.num_patches, 0.0)


def test_encoded_scores_have_the_rank_of_the_encodings(generator: Generator) -> None:
    _, model = start(Setting(encoding_dim=3), ENCODED, generator)
    assert model.scores.double().svd().S[3:].max() < 1e-5 * model.scores.norm()


def test_as_many_maps_are_kept_as_asked_with_the_last() -> None:
    for count, most in ((31, 10), (31, 20), (26, 10), (7, 1), (5, 9)):
        shown = spread(count, most)
        assert len(set(shown)) == len(shown) == min(count, most)
        assert shown[-1] == count - 1

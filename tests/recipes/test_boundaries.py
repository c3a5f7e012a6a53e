"""The boundaries recipe at its smoke setting, and what it measures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from posattn import cli
from posattn.recipes.boundaries.page import descent_section, flow_section, least_diagonal
from posattn.recipes.boundaries.settings import BoundariesConfig
from posattn.recipes.kit.theory import exact
from posattn.runs.page import HeatMaps
from posattn.structure.partition import Partition
from posattn.theory.tracking import association_of_others


@pytest.mark.usefixtures("unchecked")
def test_boundaries_at_their_smoke_setting(tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.main(["run", "boundaries", "--smoke", "--jobs", "1", "--out", str(out)])
    found = json.loads((out / "result.json").read_text())["boundaries"]
    association = np.array(found["association"])
    assert association.shape == np.shape(found["accuracy"]) == (2, 2, 3)  # σ, σ_A, ratio
    assert association[0, 0].max() < 0.5  # σ_A = 0 starts at a fixed point
    assert association[0, 1, 0] > 0.9
    assert (association[0, 1] >= association[1, 1]).all()  # more noise finds no more
    contrast = np.array(found["contrast"])
    assert contrast.shape == (2, 2, 3)  # time, σ_A, ratio
    assert abs(contrast[:, 0]).max() < 1e-6
    assert contrast[1, 1, 0] > contrast[0, 1, 0]
    assert contrast[1, 1, 0] > 1
    page = (out / "report.html").read_text()
    assert page.count("stroke-dasharray") == 6  # the line q·D = C² in every panel


def test_the_association_leaves_the_fixed_diagonal_out() -> None:
    partition = Partition.contiguous(6, 3)
    scores = partition.same.float()
    assert association_of_others(scores, partition) == pytest.approx(1.0)
    assert association_of_others(torch.eye(6) * 5 - scores, partition) == pytest.approx(0.0, abs=1e-6)
    assert association_of_others(torch.zeros(6, 6), partition) == pytest.approx(2 / 5)  # chance


@pytest.mark.usefixtures("unchecked")
def test_close_ratios_are_cells_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = ["--steps", "1", "--flow-samples", "50", "--flow-times", "1", "--ratios", "1.0", "1.00004"]
    cli.main(["run", "boundaries", "--smoke", "--jobs", "1", "--out", str(out), *small])
    assert np.shape(json.loads((out / "result.json").read_text())["boundaries"]["contrast"]) == (1, 2, 2)


def test_units_are_named_by_all_digits_of_a_number() -> None:
    assert [exact(x) for x in (320, 0.15, 480.0, 1048576, 1048584)] == [
        "320",
        "0.15",
        "480",
        "1048576",
        "1048584",
    ]


def test_the_least_diagonal_is_one_from_which_on_the_sets_are_found() -> None:
    config = BoundariesConfig(diagonals=(0.0, 1.0, 2.0, 3.0))
    assert least_diagonal(config, [0.1, 0.95, 0.5, 1.0]) == "3"
    assert least_diagonal(config, [0.95, 1.0, 1.0, 1.0]) == "0"
    assert least_diagonal(config, [1.0, 1.0, 1.0, 0.2]) == "none"


@pytest.mark.parametrize(
    ("ratios", "crossed"), [((0.25, 0.5), False), ((0.5, 2.0), True), ((2.0, 4.0), False)]
)
def test_the_line_is_drawn_where_the_ratios_reach_it(ratios: tuple[float, ...], crossed: bool) -> None:
    """Beyond the ratios it was drawn through the last one."""
    config = BoundariesConfig(ratios=ratios, diagonals=(1.0, 2.0), noise_stds=(0.5,), flow_times=(10.0,))
    grid = [[[0.5, 0.5], [1.0, 0.5]]]  # (σ or t, σ_A, ratio)
    numbers = {"association": grid, "accuracy": grid, "contrast": grid, "ended": 0}
    sections = [descent_section(config, numbers), flow_section(config, numbers)]
    figures = [item for section in sections for item in section.items if isinstance(item, HeatMaps)]
    assert [figure.line for figure in figures] == [1.0 if crossed else None] * 3
    assert ["ashed: q·D = C²" in figure.caption for figure in figures] == [crossed] * 3
    ends = f"with σ = 0.5 it is 2 at q·D/C² = {ratios[0]:g} and none at q·D/C² = {ratios[1]:g}"
    assert ends in sections[0].claim


def test_the_page_says_that_sets_are_found_where_they_are() -> None:
    """With 2 sets of 32 patches γ - ρ is 0.00 at t = 1e9: the sum over all patches is enough."""
    config = BoundariesConfig(diagonals=(1.0, 2.0), ratios=(0.5, 1.0), flow_times=(10.0,))
    for contrast, found in ((0.0, False), (2.0, True)):
        claim = flow_section(config, {"contrast": [[[contrast, 0.0]] * 2], "ended": 0}).claim
        assert f"{50 if found else 0}% by t = 10" in claim
        assert ("what limits descent" in claim) == found


def test_a_ratio_that_needs_more_noise_than_patches_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "boundaries", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--ratios", "1", "4"])
    assert (
        "the noise rate q of --ratios 4 must be a probability in [0, 1], got 2.0" in capsys.readouterr().err
    )

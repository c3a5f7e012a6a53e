"""The phases recipe at its smoke setting, and its mathematics on known answers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from posattn import cli
from posattn.recipes.phases.descent import four_numbers
from posattn.recipes.phases.flows import make_flow, transition_time
from posattn.recipes.phases.settings import FlowSetting, Scan
from posattn.recipes.phases.transitions import fit_scan, scan_section
from posattn.runs.page import Table
from posattn.structure.partition import Partition
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask


def test_the_smoke_run_shows_plateau_transition_and_descent(tmp_path: Path) -> None:
    cli.main(["run", "phases", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    flow = result["flow"]
    before = np.interp(flow["transition"] / 5, flow["t"], flow["loss"])
    assert before == pytest.approx(flow["plateau"], rel=0.05)
    assert flow["loss"][-1] < 0.2 * flow["plateau"]
    assert flow["gamma"][-1] > 1 > 0 > flow["rho"][-1]
    scan = result["scans"]["num_patches"]
    assert scan["mean"] == sorted(scan["mean"])
    assert scan["law"]["exponent"] > 1.5
    descent = result["descent"]
    for history in descent["seeds"].values():
        assert history["alpha"][-1] == pytest.approx(descent["flow"]["alpha"][-1], rel=0.15)
        assert history["gamma"][-1] == pytest.approx(descent["flow"]["gamma"][-1], rel=0.15)
        assert history["association"][-1] > 0.95


def test_a_scan_fits_what_was_seen() -> None:
    fitted = fit_scan("num_patches", [2, 4, 8, 16], [[4.0, 4.0], [16.0, None], [64.0, 64.0], [None, None]])
    assert fitted["law"]["exponent"] == pytest.approx(2.0)
    assert fitted["x"] == [2.0, 4.0, 8.0]
    assert fitted["local"] == pytest.approx([2.0, 2.0])


def test_a_scan_without_enough_transitions_has_no_law_and_is_still_shown() -> None:
    rows = [[1.0], [2.0], [None]]
    scan = {"times": rows, **fit_scan("set_size", [2, 4, 8], rows)}
    assert scan["law"] is None
    section = scan_section({"set_size": scan}, FlowSetting(), Scan())
    assert isinstance(table := section.items[-1], Table)
    assert table.rows == [["C", *["too few seen"] * 6, "2 of 3"]]
    assert fit_scan("set_size", [2, 4, 8], [[None]] * 3)["x"] == []


def test_the_diagonal_is_scanned_by_what_it_adds_to_an_even_row() -> None:
    rows = [[math.expm1(value) ** -0.5] for value in (0.5, 1.0, 2.0)]
    assert fit_scan("diagonal", [0.5, 1.0, 2.0], rows)["law"]["exponent"] == pytest.approx(-0.5)


def test_the_scale_of_the_readings_leaves_the_time_as_it_is() -> None:
    times = [
        transition_time(FlowSetting(num_patches=160, samples=100, scale=scale, t_end=1e5, rtol=1e-4), 0, 0.75)
        for scale in (1.0, None)
    ]
    assert times[0] == pytest.approx(times[1], rel=1e-2)  # α starts farther from its plateau
    assert transition_time(FlowSetting(num_patches=80, samples=200, t_end=10.0), 0, 0.75) is None


def test_a_setting_makes_its_flow() -> None:
    flow = make_flow(FlowSetting(num_patches=40, set_size=5, diagonal=1.5, linear=0.02, samples=7), seed=3)
    assert (flow.law.num_patches, flow.law.set_size, flow.diagonal, flow.linear) == (40, 5, 1.5, 0.02)
    assert (flow.samples, flow.seed, flow.scale) == (7, 3, 40.0)


def test_the_four_numbers_are_read_off_a_model(generator: Generator) -> None:
    partition = Partition.random(12, 3, generator=generator)
    task = StructuredTask(partition, dim=4, noise_rate=0.1, feature=torch.eye(4)[0])
    model = SimplifiedViT(12, 4)
    model.scores.data = torch.where(partition.same, 0.7, -0.2)
    model.value.data = torch.tensor([0.5, 0.0, 3.0, 4.0])
    assert four_numbers(model, task) == pytest.approx({"alpha": 0.5, "beta": 5.0, "gamma": 0.7, "rho": -0.2})

"""The phases recipe at its smoke setting, and its mathematics on known answers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from posattn import cli
from posattn.recipes.phases.page import ordered_text, scan_row, verdicts
from posattn.recipes.phases.run import flow_curves, four_numbers, make_flow, summarise, time_of_transition
from posattn.recipes.phases.settings import FlowSetting
from posattn.runs.folder import RunFolder
from posattn.structure.partition import Partition
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask


@pytest.mark.usefixtures("unchecked")
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
    assert not scan["law"]["rejected"]
    descent = result["descent"]
    for ordered, history in zip(descent["ordered"], descent["seeds"].values(), strict=True):
        full = [t for t, share in zip(history["t"], history["association"], strict=True) if share > 0.9999]
        assert ordered == (full[0] if full else None)
        # the loss is flat in α on the plateau, so that small batches move it
        assert history["alpha"][-1] == pytest.approx(descent["flow"]["alpha"][-1], rel=0.2)
        assert history["gamma"][-1] == pytest.approx(descent["flow"]["gamma"][-1], rel=0.15)
        assert history["association"][-1] > 0.95


def test_a_power_that_bends_is_rejected_and_its_local_powers_are_given() -> None:
    rng = np.random.default_rng(0)
    values = [2.0, 4.0, 8.0, 16.0]
    straight = [[x**2 * math.exp(0.05 * e) for e in rng.standard_normal(4)] for x in values]
    bent = [
        [x**2 * math.exp(math.log(x) ** 2 / 2 + 0.05 * e) for e in rng.standard_normal(4)] for x in values
    ]
    kept, rejected = summarise("num_patches", values, straight), summarise("num_patches", values, bent)
    assert kept["law"]["exponent"] == pytest.approx(2, abs=0.1)
    assert len(kept["fit"]) == 4
    assert scan_row("num_patches", kept)[-1].startswith(f"{kept['law']['exponent']:.2f} (")
    assert rejected["fit"] == []
    assert scan_row("num_patches", rejected)[-1] == "rejected"
    assert np.diff(rejected["local"]).min() > 0.4


def test_local_powers_are_between_neighbours_in_whatever_order_values_are_given() -> None:
    times = {2: [4.0], 4: [16.0], 8: [512.0]}
    given, ordered = (
        summarise("num_patches", values, [times[x] for x in values]) for values in ([4, 8, 2], [2, 4, 8])
    )
    assert given["x"] == [2.0, 4.0, 8.0]
    assert given["local"] == ordered["local"] == pytest.approx([2.0, 5.0])


def test_the_verdict_on_a_power_law_is_that_of_its_test() -> None:
    law = {"exponent": 2.0, "rejected": False, "p_value": 0.5}
    laws = {"D": {**law, "rejected": True, "p_value": 1e-9}, "C": law, "q": {**law, "p_value": None}}
    assert verdicts(laws) == (
        "rejected by the lack-of-fit test at 1%, given the scatter over seeds, in D; "
        "not rejected, with the exponent 2.00 in C; not tested, with the exponent 2.00 in q"
    )
    assert verdicts({}) == "too few were seen"


def test_the_page_says_when_the_scores_are_in_order_if_they_ever_are() -> None:
    assert ordered_text([None]) == "It is never 1 (0 of 1 seeds), at the times measured."
    assert "first 1, the scores in the right order, at t = 4 (1 of 2 seeds)" in ordered_text([None, 4.0])


def test_a_value_without_a_transition_in_some_seed_plays_no_part() -> None:
    found = summarise("num_patches", [2, 4, 8, 16], [[4.0, 4.0], [16.0, 16.0], [64.0, None], [None, None]])
    assert found["x"] == [2.0, 4.0]
    assert found["local"] == pytest.approx([2.0])
    assert found["law"] is None
    assert scan_row("num_patches", found)[-1] == "too few seen"
    assert scan_row("set_size", summarise("set_size", [2, 4], [[None], [None]]))[1] == "none"


def test_the_diagonal_is_scanned_by_what_it_adds_to_an_even_row() -> None:
    rows = [[math.expm1(value) ** -0.5] for value in (0.5, 1.0, 2.0)]
    assert summarise("diagonal", [0.5, 1.0, 2.0], rows)["law"]["exponent"] == pytest.approx(-0.5)


def test_no_transition_before_the_end_is_none() -> None:
    assert time_of_transition(FlowSetting(num_patches=80, samples=200, t_end=10.0), 0.75, 0) is None


def test_samples_that_are_too_few_for_the_descents_flow_are_refused_before_the_descent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    few = ["--descent.flow.samples", "1", "--descent.flow.linear", "1", "--flow.t-end", "10"]
    with pytest.raises(SystemExit):
        cli.main(["run", "phases", "--smoke", "--jobs", "1", "--out", str(out), *few])
    assert "--descent.flow.samples 1 are too few for this flow" in capsys.readouterr().err
    assert [unit["name"] for unit in RunFolder(out).events("unit")] == ["flow"]


def test_the_flow_goes_on_to_the_last_time_of_the_descent() -> None:
    """A last step ends after ``t_end``: the flow had its numbers at ``t_end`` there."""
    setting = FlowSetting(num_patches=16, set_size=4, scale=1.0, alpha=0.6, samples=200, t_end=1.0)
    found = flow_curves(setting, 0, 0.75, "--samples", (0.5, 3.0))
    path = make_flow(setting, 0).integrate(alpha=0.6, beta=0.0, gamma=0.0, rho=0.0, t_end=3.0)
    assert found["alpha"][1] == pytest.approx(path.alpha[-1], rel=1e-6)


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

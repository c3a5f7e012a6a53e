"""The speed recipe: what enters, what is printed, and ratios against hand-made timings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress

from posattn import cli
from posattn.bench import models
from posattn.recipes.speed import run as speed
from posattn.recipes.speed.page import better, cell_section, ratios, share_of_peak, throughput_ratio
from posattn.recipes.speed.run import batch_of, build, entered, weight, with_dtypes
from posattn.recipes.speed.settings import CONTENDERS, Contender, SpeedConfig
from posattn.runs.folder import open_run
from posattn.runs.page import lookup

RIVALS = ("convit", "gmlp", "resmlp", "mixer")


def timed(eager: list[float], compiled: list[float], multiply_adds: int) -> dict:
    return {
        "multiply_adds": multiply_adds,
        "eager": {"seconds": eager},
        "compiled": {"seconds": compiled},
    }


def test_ratios_take_each_side_at_its_better_turn_by_turn() -> None:
    vit = timed([4.0, 6.0, 8.0], [3.0, 4.0, 6.0], 30)
    ours = timed([2.0, 2.0, 2.0], [9.0, 1.0, 9.0], 20)
    assert (better(vit), better(ours)) == ("compiled", "eager")
    config = SpeedConfig(sizes=(224,), modes=("inference",), dtypes=("float32",))
    found = ratios(config, {"inference 224 float32": {"vit": vit, "positional": ours}})
    line = found["inference, float32"]["positional"]
    assert line == {
        "size": [224],
        "ratio": [2.0],
        "low": [1.75],
        "high": [2.5],
        "half": [0.375],
        "counted": [1.5],
    }
    assert share_of_peak(ours, 100.0, 3) == 2 * 3 * 20 / 2.0 / 100.0


@pytest.mark.parametrize("results", ["speed-rivals", "speed-rivals-avx2"])
def test_the_guide_compares_rivals_as_the_pages_do(results: str) -> None:
    """By ratios within a round, each side at its better execution, the fastest rival of each comparison."""
    docs = Path(__file__).parents[2] / "docs"
    found = json.loads((docs / "results" / results / "result.json").read_text())
    fastest = [
        min(throughput_ratio(cell["positional"], cell[name]).median for name in RIVALS if name in cell)
        for cell in found["result"]["timing"]["cells"].values()
    ]
    said = f"{len(fastest)} comparisons, {min(fastest):.2f} to {max(fastest):.2f} times"
    assert said in " ".join((docs / "models.md").read_text().split())


def test_models_that_failed_are_named_and_have_no_ratio() -> None:
    vit, ours = timed([4.0, 6.0], [3.0, 4.0], 30), timed([2.0, 2.0], [9.0, 1.0], 20)
    for entry in (vit, ours):
        entry |= {"parameters": 10, "failed": {}}
        for how in ("eager", "compiled"):
            entry[how]["memory"] = 2**20
    del ours["compiled"]
    ours["failed"] = {"compiled": "no compiler"}
    rival = {"failed": {"eager": "too slow", "compiled": "too slow"}}
    cell = {"batch": 2, "peak": [1.0, 1.0], "vit": vit, "positional": ours, "relative": rival}
    section = cell_section("training", 32, "float32", cell)
    (table,) = section.items
    assert [row[:3] for row in table.rows] == [
        ["vit", "0.4 (0.4 to 0.5)", "0.6 (0.5 to 0.6)"],
        ["positional", "1.0 (1.0 to 1.0)", "–"],
    ]
    expected = (
        " Not timed: positional compiled: no compiler; relative eager: too slow; relative compiled: too slow."
    )
    assert table.caption.endswith(expected)
    config = SpeedConfig(sizes=(32,), modes=("training",), dtypes=("float32",))
    found = ratios(config, {"training 32 float32": cell})["training, float32"]
    assert list(found) == ["positional"]
    assert ratios(config, {"training 32 float32": {**cell, "vit": rival}}) == {"training, float32": {}}


def test_the_time_left_counts_models_and_modes() -> None:
    config = SpeedConfig(dtypes=("float32",))
    cells = {cell: weight(config, cell) for cell in config.cells}
    assert cells["training", 224, "float32"] == 2 * len(entered(config, "training", 224, "float32"))
    assert cells["inference", 32, "float32"] == 4


def test_a_model_that_cannot_be_built_does_not_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PRODUCT", 64)
    monkeypatch.setitem(CONTENDERS, "convit", Contender("convit_tiny", {"embed_dim": "wide"}))
    config = SpeedConfig(("vit", "convit"), depth=1, executions=("eager",), batch=1, rounds=2)
    cell = speed.time_cell(config, "inference", 32, "float32")
    assert cell["convit"]["failed"]["eager"].startswith("TypeError")
    assert len(cell["vit"]["eager"]["seconds"]) == 2
    alone = speed.time_cell(replace(config, models=("convit",)), "inference", 32, "float32")
    section = cell_section("inference", 32, "float32", alone)
    assert section.claim.startswith("Not timed: convit eager: TypeError")


def test_what_enters_where() -> None:
    config = SpeedConfig()
    assert entered(config, "training", 224, "float32") == [n for n in CONTENDERS if "pruned" not in n]
    small = entered(config, "inference", 32, "float32")
    assert small == ["vit", "positional", "hybrid", "convit"]  # the others' patches are of 16 px
    assert "pruned16" in entered(config, "inference", 224, "float32")  # gathered
    assert "pruned32" not in entered(config, "inference", 224, "bfloat16")  # a dense product with zeros
    assert not any(mode == "training" and size > 224 for mode, size, _ in config.cells)
    assert batch_of(config, 32) * 64 <= 3136 < (batch_of(config, 32) + 1) * 64
    assert batch_of(SpeedConfig(batch=5), 512) == 5


def test_sizes_that_no_model_has_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PRODUCT", 64)
    options = ["--executions", "eager", "--modes", "inference", "--dtypes", "float32", "--depth", "1"]
    options += ["--batch", "1", "--rounds", "2", "--out", str(tmp_path / "bench")]
    cli.main(["bench", "--models", "pruned16", "--sizes", "32", "192", *options])
    cells = json.loads((tmp_path / "bench" / "result.json").read_text())["timing"]["cells"]
    assert set(cells) == {"inference 192 float32"}


def test_models_have_the_form_they_are_timed_in() -> None:
    config = SpeedConfig(depth=1)
    pruned = build(config, "pruned16", "inference", 512, "bfloat16")
    assert pruned.blocks[0].attn.maps.maps.shape == (3, 1024, 16)
    trained = build(config, "relative", "training", 32, "float32")
    assert trained.score_kind == "relative"
    assert trained.patch_embed.patch_size == (4, 4)
    assert build(config, "vit", "inference", 224, "float32").blocks[0].attn.fused_attn


def test_types_that_the_device_lacks_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "native_bfloat16", lambda device: False)
    config, said = with_dtypes(SpeedConfig())
    assert {dtype for _, _, dtype in config.cells} == {"float32"}
    assert "bfloat16 is skipped" in said
    asked = SpeedConfig(dtypes=("bfloat16",))
    assert with_dtypes(asked) == (asked, "")
    monkeypatch.setattr(speed, "native_bfloat16", lambda device: True)
    config, said = with_dtypes(SpeedConfig())
    assert {dtype for _, _, dtype in config.cells} == {"float32", "bfloat16"}
    assert said == ""


def test_smoke_run_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PRODUCT", 64)
    out = tmp_path / "bench"
    cli.main(["bench", "--smoke", "--out", str(out)])
    result = json.loads((out / "result.json").read_text())
    cells = result["timing"]["cells"]
    assert set(cells) == {"inference 32 float32", "inference 192 float32"}
    assert cells["inference 192 float32"].keys() == {"batch", "peak", "vit", "positional", "pruned16"}
    counted = result["timing"]["ratios"]["inference, float32"]["positional"]["counted"]
    assert all(ratio > 1.1 for ratio in counted)
    figures = [item for section in result["page"] for item in section["items"] if item["kind"] == "lines"]
    assert figures
    assert all(len(lookup(result, figures[0]["x"])) == 2 for _ in figures)
    assert "MMAC" in (out / "report.html").read_text()


def test_a_resumed_run_keeps_its_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored_threads: None
) -> None:
    """Else its comparisons would be of several numbers, and its page would name the last one."""
    monkeypatch.setattr(models, "PRODUCT", 64)
    config = SpeedConfig(
        ("vit",), (32,), ("inference",), ("float32", "bfloat16"), ("eager",), batch=1, rounds=2, depth=1
    )
    seen, time_cell = [], speed.time_cell

    def noted(*arguments: Any) -> dict[str, Any]:
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return time_cell(*arguments)

    monkeypatch.setattr(speed, "time_cell", noted)
    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", "speed", config) as run:
        speed.run(config, run, Progress(disable=True))
    torch.set_num_threads(3)
    with open_run(tmp_path / "run", "speed", config, resume=True) as run:
        result = speed.run(config, run, Progress(disable=True))
    assert seen == [2, 2, 2]
    assert result["timing"]["threads"] == 2
    assert "2 rounds, 1 block, on" in result["summary"]
    assert result["summary"].endswith("torch threads: 2.")


def test_bad_settings_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wrong, said in (
        (["--models", "vti"], "'vti'"),
        (["--sizes", "100"], "100"),
        (["--batch", "0"], "batch"),
        (
            ["--models", "gmlp", "mixer", "--sizes", "32"],
            "nothing to time: gmlp, mixer do not exist at 32 px",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["bench", *wrong, "--out", str(tmp_path / "x")])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err

"""Runs that are pooled give the numbers of one run of the whole, or one line that says why they cannot be pooled."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posattn import cli
from posattn.recipes.images.settings import images
from posattn.recipes.loading.settings import loading
from posattn.recipes.merge.sources import seed_in
from posattn.recipes.phases.settings import phases
from posattn.recipes.teachers.settings import teachers
from posattn.runs.environment import environment
from posattn.runs.folder import CHECKPOINTS, RunFolder, open_run

pytestmark = pytest.mark.usefixtures("unchecked")  # trainings, which test_flags.py runs checked
EPOCH = ["--train.epochs", "1", "--train.warmup-epochs", "0.5", "--train-images", "128"]
SHORT = [*EPOCH, "--speed-rounds", "2"]


def run(recipe: str, out: Path, *options: str) -> dict[str, Any]:
    cli.main(["run", recipe, "--smoke", "--backend", "sequential", "--out", str(out), *options])
    return numbers(out)


def merge(out: Path, *runs: Path) -> dict[str, Any]:
    cli.main(["merge", *map(str, runs), "--out", str(out)])
    return numbers(out)


def numbers(out: Path) -> dict[str, Any]:
    """result.json without what says where it comes from."""
    result = json.loads((out / "result.json").read_text())
    if result.pop("merged_from", None):
        result["page"].pop()
    return result


def refused(capsys: pytest.CaptureFixture[str], out: Path, *runs: Path) -> str:
    """The one line that a merge says, which leaves nothing."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        merge(out, *runs)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert not out.exists()
    return line


def started(path: Path, config: Any = None, recipe: str = "teachers", **units: Any) -> Path:
    """A run of which units are finished."""
    with open_run(path, recipe, config or teachers(True)) as folder:
        for name, value in units.items():
            folder.keep(f"{recipe}/{name}", value)
    return path


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("teachers", ["--steps", "20"]),
        ("boundaries", ["--steps", "5", "--flow-samples", "50", "--flow-times", "10"]),
        ("pruned-maps", EPOCH),
        ("jigsaw", [*EPOCH, "--plain-seeds", "2"]),
    ],
)
def test_seeds_pooled_are_one_run(recipe: str, options: list[str], tmp_path: Path) -> None:
    def seeds(first: int, count: int) -> list[str]:
        return [*options, "--seed", str(first), "--seeds", str(count)]

    run(recipe, tmp_path / "late", *seeds(5, 1))
    run(recipe, tmp_path / "early", *seeds(3, 2))
    whole, pooled = (
        run(recipe, tmp_path / "whole", *seeds(3, 3)),
        merge(tmp_path / "pooled", tmp_path / "late", tmp_path / "early"),
    )
    for result in (whole, pooled):
        result.pop("timing", None)
    assert pooled == whole
    config, expected = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("pooled", "whole")
    )
    assert (config["recipe"], config["config"], config["seed"]) == (recipe, expected["config"], 3)
    assert [origin["seeds"] for origin in config["merged_from"]] == [[3, 4], [5]]
    assert {"device", "versions", "git_commit", "command"} <= config["merged_from"][0].keys()
    assert (tmp_path / "pooled" / "report.html").is_file()
    said = RunFolder.reading(tmp_path / "pooled").result["page"][-1]["claim"]
    assert ("Without a seed" in said) == (recipe == "boundaries"), said  # jigsaw's baselines are of all seeds
    left = "does not have them: baselines, 2 seeds; jigsaw/plain/5; jigsaw/plain/6."
    assert ("Not in the numbers" in said, left in said) == (recipe == "jigsaw", recipe == "jigsaw"), said


def test_models_pooled_are_one_run(tmp_path: Path) -> None:
    run("images", tmp_path / "ViT", "--models", "ViT", "--seeds", "1", *SHORT)
    run("images", tmp_path / "positional", "--models", "positional ViT", "--seeds", "1", *SHORT)
    run(
        "images",
        tmp_path / "next",
        "--models",
        "ViT",
        "positional ViT",
        "--seeds",
        "1",
        "--seed",
        "1",
        *SHORT,
    )
    whole = run("images", tmp_path / "whole", "--models", "ViT", "positional ViT", "--seeds", "2", *SHORT)
    first = merge(tmp_path / "first", tmp_path / "ViT", tmp_path / "positional")
    assert first["timing"]["images_per_second"].keys() == {"ViT", "positional ViT"}  # measured anew, together
    pooled = merge(tmp_path / "pooled", tmp_path / "first", tmp_path / "next")
    assert pooled["images"] == whole["images"]
    assert pooled["timing"]["images_per_second"] == first["timing"]["images_per_second"]
    weights = [file.name for file in (tmp_path / "whole").glob("images-*")]
    assert len(weights) == 4
    for name in weights:
        assert (tmp_path / "pooled" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    described = json.loads((tmp_path / "pooled" / "config.json").read_text())
    assert [Path(origin["run"]).name for origin in described["merged_from"]] == ["ViT", "positional", "next"]
    logged = [json.loads(line) for line in (tmp_path / "pooled" / "metrics.jsonl").read_text().splitlines()]
    assert {"images-ViT-0", "images-positional-ViT-1"} <= {line["event"] for line in logged}
    assert RunFolder(tmp_path / "pooled").data() == RunFolder(tmp_path / "whole").data() != {}


def test_finished_parts_of_an_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "20"]
    whole = run("teachers", tmp_path / "whole", *options, "--seeds", "2")
    run("teachers", tmp_path / "late", *options, "--seeds", "1", "--seed", "1")
    early = tmp_path / "early"
    run("teachers", early, *options, "--seeds", "5")
    lines = (early / "metrics.jsonl").read_text().splitlines(keepends=True)
    units = [line for line in lines if '"event": "unit"' in line]
    kept = [line for line in units if "seed=0" in line]
    assert len(kept) == 4
    (early / "result.json").unlink()
    (early / "metrics.jsonl").write_text("".join([lines[0], *kept]))
    assert merge(tmp_path / "pooled", early, tmp_path / "late") == whole
    with pytest.raises(SystemExit):
        cli.main(["merge", str(tmp_path / "pooled"), "--out", str(tmp_path / "pooled"), "--overwrite"])
    assert f"{tmp_path / 'pooled'} is one of the runs" in capsys.readouterr().err
    cli.main(["merge", str(early), str(tmp_path / "late"), "--out", str(tmp_path / "pooled"), "--overwrite"])
    (early / "metrics.jsonl").write_text("".join([lines[0], *kept[1:]]))
    said = refused(capsys, tmp_path / "refused", early, tmp_path / "late")
    assert "/seed=0' is finished in none of the runs" in said


def test_merged_runs_are_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe knows nothing of the runs that were pooled: its page would no longer name them."""
    options = ["--steps", "2", "--seeds", "1"]
    run("teachers", tmp_path / "one", *options)
    merge(tmp_path / "pooled", tmp_path / "one")
    with pytest.raises(SystemExit):
        run("teachers", tmp_path / "pooled", *options, "--resume")
    assert "pooled holds merged runs, which are not resumed" in capsys.readouterr().err
    assert "merged_from" in json.loads((tmp_path / "pooled" / "result.json").read_text())


def test_runs_of_several_devices_say_so_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, device in enumerate(("CPU A", "CPU B", "CPU B")):
        monkeypatch.setattr("posattn.runs.environment.device_name", lambda name=device: name)
        run("teachers", tmp_path / f"{seed}", "--steps", "20", "--seeds", "1", "--seed", str(seed))
    runs = [tmp_path / f"{seed}" for seed in range(3)]
    monkeypatch.setattr("posattn.runs.environment.device_name", lambda: "CPU C")  # it computes nothing
    alike, mixed = merge(tmp_path / "alike", *runs[1:]), merge(tmp_path / "mixed", *runs)
    told = " Computed on 2 devices, whose seconds do not compare: CPU A; CPU B."
    assert mixed["summary"] == alike["summary"] + told
    again = merge(tmp_path / "again", tmp_path / "alike", runs[0])
    assert again["summary"] == mixed["summary"]


def test_a_worker_on_another_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posattn.runs.environment.device_name", lambda: "CPU A, torch threads: 2")
    monkeypatch.setattr(
        "posattn.recipes.kit.classifiers.environment", lambda: environment() | {"device": "GPU B"}
    )
    result = run("images", tmp_path / "run", "--models", "ViT", "--seeds", "1", *SHORT)
    assert result["summary"].endswith(
        " Computed on 2 devices, whose seconds do not compare: CPU A, torch threads: 2; GPU B."
    )


def test_runs_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, out = teachers(True), tmp_path / "out"
    first = started(tmp_path / "first", replace(settings, seeds=1), **{"a/seed=0": 1})
    same = started(tmp_path / "same", replace(settings, seeds=2), **{"a/seed=0": 1, "a/seed=1": 1})
    later = started(tmp_path / "later", replace(settings, seeds=1, seed=2), **{"a/seed=2": 1})
    longer = started(tmp_path / "longer", replace(settings, seed=1, steps=7), **{"a/seed=1": 1})
    other = started(tmp_path / "other", phases(True), recipe="phases", **{"a/seed=0": 1})
    empty = started(tmp_path / "empty", loading(True), recipe="loading")
    assert f"steps is {settings.steps} in {first} and 7 in {longer}" in refused(capsys, out, first, longer)
    assert f"seed 0 is in both {first} and {same}" in refused(capsys, out, first, same)
    assert "RUNS must not repeat a value" in refused(capsys, out, first, first)
    assert "seed 1 is in none of the runs, 2 is; seeds counts" in refused(capsys, out, first, later)
    assert f"recipe is 'teachers' in {first} and 'phases' in {other}" in refused(capsys, out, first, other)
    assert f"{empty} is a run of loading, which has no seeds to pool" in refused(capsys, out, empty)
    assert f"{tmp_path / 'nowhere'} holds no run" in refused(capsys, out, tmp_path / "nowhere")
    assert "RUNS must have at least 1 value" in refused(capsys, out)
    with pytest.raises(SystemExit):
        cli.main(["merge", str(first), "--out", str(first), "--overwrite"])
    assert f"{first} holds a run of teachers, which merge does not replace" in capsys.readouterr().err
    assert (first / "config.json").is_file()


def test_precisions_are_not_mixed_and_damaged_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(name: str, seed: int, precision: str) -> Path:
        settings = replace(images(True), seed=seed, seeds=1, models=("ViT",))
        with open_run(tmp_path / name, "images", settings) as folder:
            folder.save(f"images-ViT-{seed}.safetensors", b"weights")
            folder.log(f"images-ViT-{seed}", precision=precision)
            folder.keep(f"images/ViT/{seed}", {}, [f"images-ViT-{seed}.safetensors"])
        return tmp_path / name

    runs = trained("one", 0, "float32"), trained("other", 1, "bfloat16")
    said = refused(capsys, tmp_path / "out", *runs)
    named = f"images-ViT-0 of {runs[0]} in float32, images-ViT-1 of {runs[1]} in bfloat16"
    assert f"{named}; set --train.precision" in said
    (runs[1] / "images-ViT-1.safetensors").write_bytes(b"weight")
    assert "images-ViT-1.safetensors is damaged" in refused(capsys, tmp_path / "out", runs[1])


def test_runs_on_different_data_are_not_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The digests of the data are compared, go with the merged run, and hold for what the merge itself reads."""

    def trained(seed: int, digest: str) -> Path:
        settings = replace(images(True), seed=seed, seeds=1, models=("ViT",))
        with open_run(tmp_path / f"{digest}-{seed}", "images", settings) as folder:
            folder.same_data("train split of digits", digest)
            folder.keep(f"images/ViT/{seed}", {})
        return folder.path

    one, same, other = trained(0, "ab"), trained(1, "ab"), trained(1, "cd")
    said = refused(capsys, tmp_path / "out", one, other)
    assert f"train split of digits differs between {one} and {other}" in said
    said = refused(capsys, tmp_path / "out", one, same)  # whose data are not the digits
    assert "train split of digits is not what the merged runs were trained on; see --data-dir" in said


def test_names_of_units() -> None:
    names = ["images/ViT/3", "transition/D=80, seed=4", "transfer/seed=0", "pruned-maps/12"]
    assert [seed_in(name) for name in names] == [3, 4, 0, 12]
    assert [seed_in(name) for name in ("images/speed", "flow/ratio=4", "baselines, 2 seeds")] == [None] * 3


def test_a_training_goes_on_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    """An interrupted run is copied, as to another machine, and resumed there."""
    options = ["--models", "ViT", "--seeds", "1", *EPOCH, "--train.epochs", "3"]
    whole = run("images", tmp_path / "whole", *options, "--train.checkpoint-every", "1")
    stopped = tmp_path / "stopped"
    shutil.copytree(
        tmp_path / "whole", stopped, ignore=shutil.ignore_patterns("result.json", "*.safetensors")
    )
    latest = tmp_path / "whole" / CHECKPOINTS / "images-ViT-0"
    steps = sorted(file.name for file in latest.iterdir())
    shutil.copy(latest / steps[-2], stopped / CHECKPOINTS / "images-ViT-0" / steps[-2])
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    ends = next(
        i for i, line in enumerate(lines) if '"event": "images-ViT-0"' in line and '"step": 6' in line
    )
    (stopped / "metrics.jsonl").write_text("".join(lines[:ends]))
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(stopped, moved)
    resumed = run("images", moved, *options, "--train.checkpoint-every", "1", "--resume")
    assert resumed["images"] == whole["images"]
    assert (moved / "images-ViT-0.safetensors").read_bytes() == (
        tmp_path / "whole" / "images-ViT-0.safetensors"
    ).read_bytes()
    again = [
        line
        for line in (moved / "metrics.jsonl").read_text().splitlines()
        if '"event": "images-ViT-0"' in line
    ]
    assert len(again) == len([line for line in lines if '"event": "images-ViT-0"' in line])

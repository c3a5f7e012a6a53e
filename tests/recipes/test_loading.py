"""What the recipe `loading` says follows from the rates it measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import encoded, noise, write_folder
from rich.progress import Progress

from posattn import cli
from posattn.recipes.loading import run as loading
from posattn.recipes.loading.run import (
    AUGMENTATIONS,
    MODELS,
    loading_ratios,
    loading_section,
    opened,
    opened_stream,
)
from posattn.recipes.loading.settings import LoadingConfig
from posattn.runs.folder import METRICS, open_run


def write_pictures(folder: Path, count: int) -> None:
    picture = encoded(noise(3, 8, 8))
    write_folder(folder, {f"{'ab'[number % 2]}/{number}.png": picture for number in range(count)})


def test_every_augmentation_is_measured(tmp_path: Path) -> None:
    cli.main(["run", "loading", "--smoke", "--rounds", "2", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    rates = result["timing"]["images_per_second"]["digits"]
    assert set(rates) == {*AUGMENTATIONS, *MODELS}
    assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    rows = result["page"][0]["items"][0]["rows"]
    assert [row[1] for row in rows[:4]] == list(AUGMENTATIONS)


def test_a_resumed_run_keeps_its_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored_threads: None
) -> None:
    config, seen = LoadingConfig(("digits",)), []

    def noted(*arguments: Any) -> dict[str, list[float]]:
        seen.append(torch.get_num_threads())
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {name: [1.0, 2.0] for name in ("none", *MODELS)}

    monkeypatch.setattr(loading, "measure_memory", noted)
    torch.set_num_threads(2)
    run = open_run(tmp_path / "run", "loading", config)
    with pytest.raises(KeyboardInterrupt):
        loading.run(config, run, Progress(disable=True))
    torch.set_num_threads(3)
    assert "2 threads" in loading.run(config, run, Progress(disable=True))["summary"]
    assert seen == [2, 2]
    run.lock.release()


def test_a_batch_larger_than_a_set_is_refused_before_any_is_measured() -> None:
    with pytest.raises(ValueError, match="batch_size must be at most 1437, the images, got 2000"):
        opened(LoadingConfig(("digits",), batch_size=2000))


def test_the_training_split_is_measured_under_any_spelling(tmp_path: Path) -> None:
    for name, count in (("Training", 6), ("val", 4)):
        write_pictures(tmp_path / name, count)
    assert len(opened_stream(LoadingConfig(batch_size=1), tmp_path)) == 6


def test_ratios_are_taken_within_a_turn_and_the_least_is_said() -> None:
    rates = {"none": [60.0, 90.0, 80.0], "ViT": [10.0, 10.0, 20.0], "positional ViT": [20.0, 30.0, 20.0]}
    found = loading_ratios(rates)
    assert found["none"]["ViT"].median == pytest.approx(6)  # of 6, 9, 4
    assert found["none"]["positional ViT"].median == pytest.approx(3)  # of 3, 3, 4
    claim = loading_section(3, {"toy": rates}, {"toy": found}).claim
    assert "It did in 1 of 2 cases; the lowest was 3.0 (toy, none, positional ViT)" in claim


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sets", "digits", "cifar10", "--data-dir", "nowhere"], "cifar10 not found"),
        (["--pictures", "nowhere"], "nowhere"),
        (["--pictures", "few"], "--stream-batches x batch_size must be at most 4, the pictures, got 128"),
    ],
)
def test_a_set_that_is_not_there_is_refused_before_any_is_measured(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "few" / "Train", 4)
    with pytest.raises(SystemExit):
        cli.main(["run", "loading", "--smoke", *arguments, "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run" / METRICS).exists()

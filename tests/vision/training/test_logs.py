"""What is logged of a training is what happened, also when it was interrupted; bars show where it is."""

import io
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from posattn.runs.folder import METRICS, TENSORBOARD, RunFolder
from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.logs import TrainingLog, follow_trainings, training_bar
from posattn.vision.training.loop import TrainRecord, train

CONFIG = TrainConfig(epochs=3, batch_size=32, record_every=2, checkpoint_every=3)


def tiny_vit() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1, "in_chans": 1}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **sizes)


def few() -> ImageSet:
    return load_images("digits").select(torch.arange(200))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    held = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in held.Scalars(tag)] for tag in held.Tags()["scalars"]}


def test_lines_and_tensorboard_hold_every_record(tmp_path: Path) -> None:
    records = list(train(tiny_vit(), few(), CONFIG))
    with TrainingLog(RunFolder(tmp_path), "vit-0", tensorboard=True) as log:
        for record in records:
            log.write(record, **({"accuracy": record.epoch / 10} if record.end_of_epoch else {}))
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["loss"] for line in lines] == [record.loss for record in records]
    assert {line["event"] for line in lines} == {"vit-0"}
    assert lines == RunFolder(tmp_path).events("vit-0")
    assert [row["accuracy"] for row in log.rows if "accuracy" in row] == [0.1, 0.2, 0.3]
    drawn = scalars(tmp_path / TENSORBOARD / "vit-0")
    assert [step for step, _ in drawn["loss"]] == [record.step for record in records]
    assert [value for _, value in drawn["loss"]] == pytest.approx([record.loss for record in records])
    assert [step for step, _ in drawn["accuracy"]] == [6, 12, 18]
    assert set(drawn) == {"epoch", "loss", "lr", "images_per_second", "seconds", "cpu_seconds", "accuracy"}


def test_the_log_of_an_interrupted_training_is_that_of_a_whole_one(tmp_path: Path) -> None:
    expected = [record.loss for record in train(tiny_vit(), few(), CONFIG)]
    for stop in (7, 100):  # the first start is cut off after a record whose checkpoint is not written
        with TrainingLog(RunFolder(tmp_path), "vit", tensorboard=True) as log:
            run = train(tiny_vit(), few(), CONFIG, checkpoints=tmp_path / "kept")
            for _, record in zip(range(stop), run, strict=False):
                log.write(record)
            run.close()
    assert [row["loss"] for row in log.rows] == expected
    steps = [row["step"] for row in RunFolder(tmp_path).events("vit")]
    assert len(steps) > len(set(steps)) == len(expected)
    drawn = scalars(tmp_path / TENSORBOARD / "vit")["loss"]
    assert [value for _, value in drawn] == pytest.approx(expected)


def test_without_tensorboard_nothing_of_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = next(train(tiny_vit(), few(), CONFIG))
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("posattn.vision.training.logs.find_spec", lambda name: None)
    TrainingLog(RunFolder(tmp_path), "vit").write(record)
    assert not (tmp_path / TENSORBOARD).exists()
    with pytest.raises(ValueError, match=r"need: pip install 'posattn\[tensorboard\]'"):
        TrainingLog(RunFolder(tmp_path), "vit", tensorboard=True)


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = next(train(tiny_vit(), few(), CONFIG))
    monkeypatch.setattr("accelerate.PartialState.is_main_process", False)
    log = TrainingLog(RunFolder(tmp_path), "vit", tensorboard=True)
    log.write(record)
    assert list(tmp_path.iterdir()) == []
    assert [row["loss"] for row in log.rows] == [record.loss]


def made_up(steps: Iterator[int] | range, total: int = 40) -> Iterator[TrainRecord]:
    for step in steps:
        time.sleep(0.01)
        yield TrainRecord(
            step, total, step / 10, 2.5 / step, 1e-3, 1234.5, 0.1 * step, False, "float32", nn.Identity()
        )


@pytest.fixture
def progress() -> Progress:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, auto_refresh=False)


def shown(progress: Progress) -> str:
    progress.refresh()
    return progress.console.file.getvalue()


def test_a_bar_shows_loss_throughput_and_time_left(progress: Progress) -> None:
    with progress:
        seen = []
        for record in training_bar(made_up(range(5, 40, 5)), progress, "ViT"):
            seen.append(record.step)
            said = shown(progress)
        assert seen == list(range(5, 40, 5))
        assert "ViT: loss 0.071, 1,234 images/s" in said
        assert re.search(r"35/40 0:00:0\d$", said)
        (task,) = progress.tasks
        assert task.time_remaining is not None


def test_a_bar_that_goes_on_does_not_count_what_was_done_before(progress: Progress) -> None:
    with progress:
        for _ in training_bar(made_up(range(1000, 1003), total=1100), progress, "ViT"):
            pass
        (task,) = progress.tasks
        assert task.completed == 1002
        assert task.speed is not None
        assert task.speed < 200  # a step in 10 ms or more; 1000 in one would be far above


def test_a_bar_goes_when_its_training_is_done(progress: Progress) -> None:
    with progress:
        list(training_bar(made_up(range(39, 41)), progress, "ViT"))
        (task,) = progress.tasks
        assert (task.visible, task.finished) == (False, True)


def test_trainings_of_other_processes_are_followed(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posattn.vision.training.logs.FOLLOWED_EVERY", 0.01)
    run = RunFolder(tmp_path)
    TrainingLog(run, "old").write(next(made_up(range(3, 4))))
    with progress, follow_trainings(run, progress, TrainConfig(precision="bfloat16")):
        for name, step in (("one", 7), ("two", 9)):
            TrainingLog(RunFolder(tmp_path), name).write(next(made_up(range(step, step + 1))))
        run.keep("a unit of work", 1)
        with open(tmp_path / METRICS, "a") as file:
            file.write('{"event": "half of a li')
        until = time.monotonic() + 20
        while len(progress.tasks) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    assert "posattn: precision bfloat16: as set" in shown(progress)
    assert sorted((task.description.split(":")[0], task.completed) for task in progress.tasks) == [
        ("one", 7),
        ("two", 9),
    ]

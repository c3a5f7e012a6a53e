"""A training that is interrupted, or finished, ends as one that never was interrupted."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_trainings import RICH, SHORT, few, losses, same_weights, tiny_vit
from torch import Tensor, nn

from posattn.runs.stopping import Stopped
from posattn.vision.training import resume
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import train
from posattn.vision.training.resume import identity
from posattn.vision.training.state import Training


@pytest.mark.parametrize("config", [SHORT, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("records", [1, 4, 7])
def test_an_interrupted_run_ends_the_same(tmp_path: Path, config: TrainConfig, records: int) -> None:
    whole, model = tiny_vit(drop_path_rate=0.2), tiny_vit(drop_path_rate=0.2)
    expected = {record.step: record.loss for record in train(whole, few(), config)}
    seen: dict[int, float] = {}
    run = train(model, few(), config, checkpoints=tmp_path)
    for _, record in zip(range(records), run, strict=False):
        seen[record.step] = record.loss
    run.close()
    model = tiny_vit(seed=9, drop_path_rate=0.2)  # other weights: all must come from the checkpoint
    if not list(tmp_path.iterdir()):
        model.load_state_dict(tiny_vit(drop_path_rate=0.2).state_dict())
    seen |= {record.step: record.loss for record in train(model, few(), config, checkpoints=tmp_path)}
    assert seen == expected
    assert same_weights(model, whole)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    model, again = tiny_vit(), tiny_vit(seed=1)
    *_, last = train(model, few(), RICH, checkpoints=tmp_path)
    (record,) = train(again, few(), RICH, checkpoints=tmp_path)
    assert record.scalars == last.scalars
    assert same_weights(model, again)
    assert same_weights(model, record.model)


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    losses(tiny_vit(), few(), SHORT, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=r"lr=0\.001, this run of 0\.1"):
        losses(tiny_vit(), few(), replace(SHORT, lr=0.1), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="another model"):
        losses(tiny_vit(embed_dim=16), few(), SHORT, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=r"another model: blocks\.0\.attn:num_heads is 2 there and 1 here"):
        losses(tiny_vit(num_heads=1), few(), SHORT, checkpoints=tmp_path)
    with pytest.raises(
        ValueError, match=r"another model: blocks\.0\.attn\.attn_drop:p is 0\.0 there and 0\.1 here"
    ):
        losses(tiny_vit(attn_drop_rate=0.1), few(), SHORT, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="data="):
        losses(tiny_vit(), few(150), SHORT, checkpoints=tmp_path)
    others = replace(few(), labels=few().labels.flip(0))  # of the same name, number and size
    with pytest.raises(ValueError, match="data_sha256="):
        losses(tiny_vit(), others, SHORT, checkpoints=tmp_path)


@pytest.mark.parametrize("unknown", ["data_sha256", "mix_prob"])
def test_a_checkpoint_of_an_older_version_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: str
) -> None:
    """Earlier versions wrote no digest of the data, and not every setting."""

    def older(training: Training) -> dict[str, Any]:
        return {key: value for key, value in identity(training).items() if key != unknown}

    with monkeypatch.context() as patch:
        patch.setattr(resume, "identity", older)
        expected = losses(tiny_vit(), few(), SHORT, checkpoints=tmp_path)
    assert losses(tiny_vit(seed=1), few(), SHORT, checkpoints=tmp_path) == expected[-1:]
    if unknown == "mix_prob":
        with pytest.raises(ValueError, match=r"mix_prob=1\.0, this run of 0\.5"):
            losses(tiny_vit(), few(), replace(SHORT, mix_prob=0.5), checkpoints=tmp_path)


def test_batch_norm_goes_on_where_it_was(tmp_path: Path) -> None:
    def resnet(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10, in_chans=1)

    config = replace(SHORT, ema_decay=0.5)
    whole, model = resnet(0), resnet(1)
    losses(whole, few(), config)
    run = train(resnet(0), few(), config, checkpoints=tmp_path)
    for _ in range(6):
        next(run)
    run.close()
    losses(model, few(), config, checkpoints=tmp_path)
    assert same_weights(model, whole)


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "lion", "adafactor", "nadamw"])
def test_any_optimizer_goes_on_where_it_was(tmp_path: Path, optimizer: str) -> None:
    config = replace(SHORT, optimizer=optimizer)
    whole, model = tiny_vit(), tiny_vit()
    losses(whole, few(), config)
    run = train(model, few(), config, checkpoints=tmp_path)
    for _ in range(6):
        next(run)
    run.close()
    losses(model := tiny_vit(seed=1), few(), config, checkpoints=tmp_path)
    assert same_weights(model, whole)


def test_seconds_since_the_last_record_are_kept_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that advances a second a step: an interrupted training has the seconds and the speed of a whole one."""
    now = 0.0
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"posattn.vision.training.state.time.{name}", lambda: now)

    def tick(images: Tensor) -> Tensor:
        nonlocal now
        now += 1
        if now in (3, 59):  # steps 3 and 9
            os.kill(os.getpid(), signal.SIGTERM)
        return images

    config = replace(SHORT, record_every=100, checkpoint_every=100)
    for _ in range(2):
        with pytest.raises(Stopped):
            list(train(tiny_vit(), few(), config, checkpoints=tmp_path, transform=tick))
        now += 50  # between two starts
    records = list(train(tiny_vit(), few(), config, checkpoints=tmp_path, transform=tick))
    assert [record.seconds for record in records] == [12, 18]
    assert [record.cpu_seconds for record in records] == [12, 18]
    assert [record.images_per_second for record in records] == [config.batch_size] * 2

"""Conversions that are stopped, killed or changed go on to the same numbers, or are refused."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from conversions import Configure, convert
from PIL import Image
from safetensors.torch import load_file, save_file
from toy_runs import contents

from posattn.recipes.convert import run as convert_run
from posattn.runs.folder import RunFolder
from posattn.runs.stopping import Stopped, stoppable
from posattn.vision.convert.recovery import Recovery


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT is heard, which a shell has commands in its background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recovery_that_was_stopped_has_the_losses_of_one_that_was_not(
    number: int, config_of: Configure, tmp_path: Path, monkeypatch
) -> None:
    """Stopped by a signal within the steps that a loss of the result is the mean of; then a line of the log is lost."""
    config = config_of(kinds=("table",), heads="50%", refit=0, recover=12)
    whole, update, seen = convert(config, tmp_path / "whole").result["convert"], Recovery.update, []

    def stopping(self: Recovery) -> object:
        seen.append(self)
        if len(seen) == 7:
            os.kill(os.getpid(), number)
        return update(self)

    monkeypatch.setattr(Recovery, "update", stopping)
    with pytest.raises(Stopped, match=f"stopped by {signal.Signals(number).name}") as stopped, stoppable():
        convert(config, tmp_path / "run")
    assert stopped.value.code == 128 + number
    assert len(seen) == 7
    journal = tmp_path / "run" / "metrics.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b'"recovery", "step": 3,' not in line))
    assert len(journal.read_bytes().splitlines()) == len(lines) - 1
    found = convert(config, tmp_path / "run", resume=True).result["convert"]
    assert len(seen) == 12  # the seventh step is not repeated
    assert found["recovery"] == whole["recovery"]
    assert len(found["recovery"]) == 2


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    config_of: Configure, place: Path, tmp_path: Path, monkeypatch
) -> None:
    config = config_of(budget=0.5, recover=12)
    whole = convert(config, tmp_path / "whole").result["convert"]
    kept = RunFolder.keep
    for stop in ("alone as convolution", "greedy step 1", "curve greedy", "refit", "quality after"):

        def keep(self: RunFolder, name: str, *values: object, stop: str = stop) -> None:
            if name.startswith(stop):
                raise KeyboardInterrupt
            kept(self, name, *values)

        monkeypatch.setattr(RunFolder, "keep", keep)
        with pytest.raises(KeyboardInterrupt):
            convert(config, tmp_path / "run", resume=(tmp_path / "run").exists())
    monkeypatch.undo()
    done = RunFolder(tmp_path / "run")
    done.recover()
    seconds = done.value("seconds of kinds")
    found = convert(config, tmp_path / "run", resume=True).result["convert"]
    assert RunFolder(tmp_path / "run").events("unit")
    if {one["kind"] for one in found["heads"]} == {one["kind"] for one in whole["heads"]} and all(
        a["kind"] == b["kind"] for a, b in zip(found["heads"], whole["heads"], strict=True)
    ):  # what is fastest is timed anew in each run
        for part in ("orders", "curves", "chosen", "quality", "recovery"):
            assert found[part] == whole[part]
    assert set(seconds) == {"table", "convolution"}


@pytest.mark.parametrize("changed", ["model", "picture set"])
def test_a_run_goes_on_with_the_weights_and_pictures_that_it_was_started_with(
    changed: str, config_of: Configure, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses of the heads would be of one model, and the converted model of the other."""
    config = config_of(model=f"local-dir:{tmp_path / 'vit'}", images=str(tmp_path / "pictures"))
    for name in ("vit", "pictures"):
        shutil.copytree(place / name, tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(convert_run, "seconds_of_kinds", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(config, tmp_path / "run")
    if changed == "model":
        weights = load_file(tmp_path / "vit" / "model.safetensors")
        save_file({name: -value for name, value in weights.items()}, tmp_path / "vit" / "model.safetensors")
    else:
        picture = tmp_path / "pictures" / "000.png"
        Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(picture)
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=f"the {changed} .* has changed since .*run was started"):
        convert(config, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before

"""Checkpoints come back to the bit, whole or not at all."""

import os
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from posattn.vision.training.checkpoints import load_checkpoint, load_latest, save_checkpoint

META = {"seed": 3, "nested": {"lr": 0.1, "names": ["a", "b"]}, "none": None}


def tensors(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        "weight": torch.randn(7, 5),
        "half": torch.randn(4).bfloat16(),
        "count": torch.tensor(12),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "er", 12, tensors(), META)
    step, loaded, meta = load_latest(tmp_path / "deep" / "er")
    assert step == 12
    assert meta == META
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    """Tied weights, and a buffer that is a view of another."""
    whole = torch.arange(6.0)
    shared = {"one": whole, "tied": whole, "part": whole[1:3], "turned": whole.view(2, 3).T}
    save_checkpoint(tmp_path, 1, shared, META)
    loaded = load_latest(tmp_path).tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in shared.items())


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "nowhere") is None


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 100):
        save_checkpoint(tmp_path, step, tensors(step), {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000010.safetensors",
        "step-00000100.safetensors",
    ]


def test_what_a_killed_writer_left_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-00000003.part").write_bytes(b"half of it")
    assert load_latest(tmp_path) is None
    save_checkpoint(tmp_path, 3, tensors(), META)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003.safetensors"]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, tensors(), META)
    whole = path.read_bytes()
    expected = load_checkpoint(path)
    draw = random.Random(0)
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place, draw.randrange(8)))
        with pytest.raises(ValueError, match=r"step-00000001\.safetensors is damaged"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path).meta == expected.meta


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, tensors(), META)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged"):
            load_checkpoint(path)


def test_the_one_before_a_damaged_one_is_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, tensors(1), {})
    path = save_checkpoint(tmp_path, 2, tensors(2), {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"step-00000002\.safetensors is damaged.*before it"):
        assert load_latest(tmp_path).step == 1


@pytest.mark.filterwarnings("ignore:checkpoint")
def test_all_damaged_is_refused(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save_checkpoint(tmp_path, step, tensors(), {})
        path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 1, 0))
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        load_latest(tmp_path)


def test_a_failed_write_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, tensors(), META)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, tensors(), META)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
    assert load_latest(tmp_path).meta == META


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]

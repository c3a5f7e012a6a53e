"""Checkpoints in safetensors: written atomically, checked when read, the last two kept."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from posattn.runs.files import sync

KEEP = 2


class Checkpoint(NamedTuple):
    """The arguments of ``save_checkpoint``."""

    step: int
    tensors: dict[str, Tensor]  # on the CPU
    meta: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write ``step-XXXXXXXX.safetensors`` and drop all but the last two.

    The file is fsynced before it gets its name; after a failure the older ones remain.

    Args:
        folder: created if it does not exist.
        step: orders the checkpoints.
        tensors: on any device.
        meta: JSON values.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    held = apart(tensors)
    text = json.dumps(dict(meta))
    temporary = path.with_suffix(".part")
    try:
        save_file(
            held, temporary, {"step": str(step), "meta": text, "sha256": digest(held, f"{step} {text}")}
        )
        sync(temporary)
        os.replace(temporary, path)
        sync(folder)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    for old in saved(folder)[:-KEEP]:
        old.unlink()
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of ``folder``, None if it holds none. A damaged one gives a warning.

    Raises:
        ValueError: there are checkpoints and all of them are damaged.
    """
    paths = saved(folder)
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except ValueError as error:
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
    if paths:
        raise ValueError(f"every checkpoint in {folder} is damaged: {', '.join(path.name for path in paths)}")
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint. Raises ValueError if the file was cut short or a bit of it changed."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        step, text, expected = int(header["step"]), header["meta"], header["sha256"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    if digest(tensors, f"{step} {text}") != expected:
        raise ValueError(f"checkpoint {path} is damaged: its checksum does not match")
    return Checkpoint(step, tensors, json.loads(text))


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; one that shares memory with another, as a tied weight does, as a copy.

    safetensors writes no tensors that share memory.
    """
    held: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        kept = tensor.detach().cpu().contiguous()
        if (place := kept.untyped_storage().data_ptr()) in places:
            kept = kept.clone()
        places.add(place)
        held[name] = kept
    return held


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 over the text and the name, type, shape and bytes of every tensor, which are on the CPU."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()

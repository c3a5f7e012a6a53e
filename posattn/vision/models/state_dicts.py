"""Checkpoints in common forms: wrapped, prefixed, with another head or image size."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

State = dict[str, Tensor]
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher", "module")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.", "teacher.", "student.", "vit.")
SHOWN = 200  # characters of the error of a library
FEW = 3  # names in a message
HEADS = ("head", "head_dist", "fc", "classifier", "fc_norm", "norm", "attn_pool", "head_drop")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU: safetensors, or a pickle of weights and plain settings.

    Settings may be in the namespace that argparse gives, as in checkpoints of timm's ``train.py``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, or holds other objects (they are named).
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a checkpoint is a file of weights")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = objects_in(path) or f"{type(error).__name__} {brief(error)}"
        raise ValueError(f"{path} is no checkpoint of weights that can be read: {said}") from error
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} holds a {type(held).__name__}, not a mapping of weights")
    return dict(held)


def objects_in(path: Path) -> str:
    """What a pickle holds beside weights and plain settings, and what to do; empty if nothing, or if it is damaged."""
    try:
        found = {*torch.serialization.get_unsafe_globals_in_checkpoint(path)} - {"argparse.Namespace"}
    except Exception:
        return ""
    names = sorted(found)
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    advice = "save the weights alone, by torch.save(model.state_dict(), ...)"
    return f"it holds objects of {', '.join(names[:FEW])}{more}: {advice}" if names else ""


def brief(error: Exception) -> str:
    """The start of a library's message, in one line; without one, the kind of the error."""
    return " ".join(str(error).split())[:SHOWN] or type(error).__name__


def unwrap_checkpoint(state: Mapping[str, Any], names: set[str]) -> tuple[State, list[str]]:
    """The weights of a checkpoint under the model's names, without known wrappers and prefixes.

    Containers (``state_dict``, ``model``, ``model_ema``, ``teacher`` …; averaged weights first, as timm does) are
    opened. Prefixes (``module.``, ``_orig_mod.``, ``backbone.``, ``model.``, ``encoder.`` …) are removed as long as
    more names match without them.

    Args:
        state: the content of a checkpoint.
        names: the keys of the model's state dict.

    Returns:
        The weights, and what was removed, outermost first.
    """
    taken: list[str] = []
    while (name := next((c for c in CONTAINERS if isinstance(state.get(c), Mapping)), None)) is not None:
        state, taken = state[name], [*taken, name]
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    while (prefix := common_prefix(weights)) is not None:
        without = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
        matching = len(names & weights.keys())
        if matching and len(names & without.keys()) <= matching:
            break
        weights, taken = without, [*taken, prefix]
    return weights, taken


def common_prefix(weights: State) -> str | None:
    """The known prefix that most names have; None if no name has one."""
    counts = {prefix: sum(name.startswith(prefix) for name in weights) for prefix in PREFIXES}
    best = max(counts, key=lambda prefix: counts[prefix])
    return best if counts[best] else None


def load_checkpoint(model: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Load a checkpoint's backbone into a model of timm or of this package; returns notes for the user.

    Position embeddings and the input layer are resampled as timm does it, which a note says. A head with other
    classes, or a missing one, is ignored: attention does not depend on it. So is what the model has no part for, such
    as a decoder.

    Raises:
        ValueError: nothing of the checkpoint belongs to the model, the model's own filter fails on it, or what
            ``check_backbone`` raises.
    """
    own = model.state_dict()
    weights, taken = unwrap_checkpoint(state, set(own))
    notes = [f"taken off the checkpoint: {', '.join(taken)}"] if taken else []
    if not weights.keys() & own.keys():
        raise ValueError(
            f"nothing of the checkpoint belongs to this {type(model).__name__}: it holds "
            f"{', '.join(list(weights)[:3]) or 'no tensors'} …, the model {', '.join(list(own)[:3])} …"
        )
    stored = weights
    try:
        weights = adapted(model, stored)
    except Exception as error:  # of the model's own filter, on weights of another kind
        raise ValueError(f"the checkpoint does not fit {type(model).__name__}: {brief(error)}") from error
    notes += resampled(stored, weights)
    held = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    check_backbone(own, weights, held)
    if lacking := {name.split(".")[0] for name in own if name not in held}:
        notes.append(f"left at random: {', '.join(sorted(lacking))}")
    if unused := [name for name in weights if name not in own and not in_head(name)]:
        notes.append(f"not used: {counted(unused)}")
    model.load_state_dict(held, strict=False)
    return notes


def resampled(stored: State, weights: State) -> list[str]:
    """A note on the weights that have another number of entries than in the checkpoint."""
    changed = [
        f"{name} ({describe(stored[name])} to {describe(value)})"
        for name, value in weights.items()
        if name in stored and stored[name].numel() != value.numel()
    ]
    return [f"resampled to the size of the model: {', '.join(changed)}"] if changed else []


def check_backbone(own: State, weights: State, held: State) -> None:
    """Raise ValueError naming what the backbone lacks, or has in the checkpoint alone: the model would be another.

    Args:
        own: the state dict of the model.
        weights: those of the checkpoint.
        held: those of them that the model takes.
    """
    if missing := [name for name in own if name not in held and not in_head(name)]:
        shapes = [f"{n} ({describe(weights.get(n))}, the model's {describe(own[n])})" for n in missing[:3]]
        raise ValueError(f"the checkpoint lacks {len(missing)} weights of the model: {', '.join(shapes)}")
    parts = {name.split(".")[0] for name in own if not in_head(name)}
    if foreign := [name for name in weights if name not in own and name.split(".")[0] in parts]:
        raise ValueError(f"the model has no place for {counted(foreign)}")


def in_head(name: str) -> bool:
    """Whether a weight belongs to a layer after the last block."""
    return name.split(".")[0] in HEADS


def counted(names: list[str]) -> str:
    """How many weights of a checkpoint these are, and the first three names."""
    return f"{len(names)} weights of the checkpoint: {', '.join(names[:3])}{' …' if names[3:] else ''}"


def describe(value: Tensor | None) -> str:
    """The shape of a weight, for messages."""
    return "none" if value is None else "x".join(map(str, value.shape)) or "scalar"


def adapted(model: Any, weights: State) -> State:
    """The weights through the model's own checkpoint filter, and its input layer for other channels."""
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    weights = dict(adapt(weights, model)) if adapt else dict(weights)
    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    for name in (f"{each}.weight" for each in ([first] if isinstance(first, str) else first or ())):
        own = model.state_dict().get(name)
        if own is not None and own.shape[1] != 3 and name in weights and weights[name].shape[1] == 3:
            weights[name] = adapt_input_conv(own.shape[1], weights[name])
    return weights

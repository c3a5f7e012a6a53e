"""A training's state as tensors and JSON, and back."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from posattn.runs.describe import with_newer
from posattn.vision.training.checkpoints import load_latest, save_checkpoint
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.optimization import make_optimizer
from posattn.vision.training.record import TrainRecord
from posattn.vision.training.state import Training
from posattn.vision.training.structure import difference
from posattn.vision.training.weights import load_weights, one_line


def save(training: Training, folder: Path) -> None:
    """Write a checkpoint (by the main process alone).

    Raises:
        FloatingPointError: a loss since the last record or a weight is not finite; nothing is written.
    """
    losses, unrecorded = training.finite_losses(), training.passed()
    optimizer, others = flatten_optimizer(training.optimizer)
    tensors = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    for name, tensor in tensors.items():
        is_mask = name.removeprefix("model.") in training.masks
        if (tensor.isnan() if is_mask else ~tensor.isfinite()).any():
            raise FloatingPointError(f"{name} is not finite after step {training.step} of {training.steps}")
    if training.ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in training.ema.module.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.items()} | {"losses": losses}
    if training.accelerator.is_main_process:
        meta = {"run": identity(training), "optimizer": others, "seconds": training.seconds}
        meta["structure"] = training.structure
        meta |= {"cpu_seconds": training.cpu_seconds, "unrecorded": unrecorded}
        meta["notes"] = training.notes
        meta["last"] = None if training.last is None else training.last.scalars
        save_checkpoint(folder, training.step, tensors, meta)


def restore(training: Training, folder: Path) -> None:
    """Load the newest undamaged checkpoint of ``folder``, if any.

    Raises:
        ValueError: it is of a training with other settings (they are named), of another model or other data, or every
            checkpoint is damaged.
    """
    built = training.structure  # before a step can change it
    ours = identity(training)  # before the clocks start: a digest of the data takes a while
    checkpoint = load_latest(folder)
    if checkpoint is None:
        return
    tensors, meta = checkpoint.tensors, checkpoint.meta
    theirs = with_newer(meta["run"], training.config)  # of an older version
    theirs.setdefault("data_sha256", training.data_sha256)  # older ones have none
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise ValueError(
                f"the checkpoint in {folder} is of {key}={theirs.get(key)!r}, this run of {value!r}"
            )
    if told := difference(meta.get("structure", built), built):  # older ones have none
        raise ValueError(f"the checkpoint in {folder} is of another model: {told}")
    load_weights(training.model, without_prefix("model.", tensors), f"the checkpoint in {folder}")
    if training.ema is not None:
        training.ema.module.load_state_dict(without_prefix("ema.", tensors))
    load_optimizer(training.optimizer, without_prefix("optimizer.", tensors), meta["optimizer"])
    training.step, training.seconds = checkpoint.step, meta["seconds"]
    training.cpu_seconds = meta.get("cpu_seconds", training.seconds)  # older ones have none
    training.unrecorded = tuple(meta.get("unrecorded", (0.0, 0.0)))
    training.notes[:] = meta.get("notes", [])
    training.losses = list(tensors["losses"].to(training.device))
    training.scheduler.step_update(training.step)
    if meta["last"] is not None:
        training.last = TrainRecord(**meta["last"] | {"model": training.averaged})


def identity(training: Training) -> dict[str, Any]:
    """The settings that must be equal to continue from a checkpoint."""
    data = {"data": f"{training.train_set!r}", "data_sha256": training.data_sha256}
    return asdict(training.config) | {"seed": training.seed, "precision": training.dtype} | data


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and settings, named ``state.parameter.key`` and ``groups.number.key``: tensors and the rest."""
    held = optimizer.state_dict()
    kinds = {"state": held["state"], "groups": dict(enumerate(held["param_groups"]))}
    entries = {
        f"{kind}.{number}.{key}": value
        for kind, numbered in kinds.items()
        for number, fields in numbered.items()
        for key, value in fields.items()
    }
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in entries.items() if name not in tensors}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], others: Mapping[str, Any]) -> None:
    """The inverse of ``flatten_optimizer``."""
    kinds: dict[str, dict[int, dict[str, Any]]] = {"state": {}, "groups": {}}
    for name, value in {**others, **tensors}.items():
        kind, number, key = name.split(".", 2)
        kinds[kind].setdefault(int(number), {})[key] = value
    groups = [kinds["groups"][number] for number in sorted(kinds["groups"])]
    optimizer.load_state_dict({"state": kinds["state"], "param_groups": groups})


def check_optimizer(config: TrainConfig) -> None:
    """Raise ValueError unless the optimizer takes a step and a checkpoint can keep its state, tried on a layer."""
    device = "cuda" if config.optimizer.startswith(("fused", "bnb")) else "cpu"  # apex, bitsandbytes
    eager = torch.compiler.set_stance("force_eager")  # timm compiles kron, which takes half a minute
    try:
        with torch.random.fork_rng([]), warnings.catch_warnings(action="ignore"), eager:
            layer = nn.Linear(2, 2).to(device)
            optimizer = make_optimizer(layer, config)
            layer(torch.ones(1, 2, device=device)).sum().backward()
            optimizer.step()
        json.dumps(flatten_optimizer(optimizer)[1])
    except Exception as error:
        raise ValueError(
            f"optimizer must train and be kept in checkpoints, {config.optimizer!r} fails: {one_line(error)}"
        ) from error

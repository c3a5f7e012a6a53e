"""Recovery: a converted model is trained to give the features of the original on pictures without labels."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Generator, Tensor, nn

from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.features import Features, feature_loss
from posattn.vision.convert.thawing import converted_layers, freeze_maps, groups_of, thaw
from posattn.vision.data.augment import derived_seed, random_crop_flip
from posattn.vision.models.copies import copied
from posattn.vision.modes import to_single, to_types
from posattn.vision.training.checkpoints import load_latest, save_checkpoint
from posattn.vision.training.memory import memory_advice
from posattn.vision.training.precision import refuse_settings_of
from posattn.vision.training.resume import flatten_optimizer, load_optimizer, without_prefix
from posattn.vision.training.signals import StopSignal

ORDER, DRAWS = 11, 12  # purposes of derived seeds: the order of the pictures in a pass, the draws of a step


class RecoveryRecord(NamedTuple):
    """The record of a step."""

    step: int  # steps done
    loss: float  # of the batch: see ``feature_loss``


class Normalise(NamedTuple):
    """Converts pictures of 0 to 255 into a model's input."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (self.mean, self.std))
        return (pictures.float() / 255 - mean) / std


def recover(
    model: nn.Module,
    original: nn.Module,
    pictures: UInt8[Tensor, "n c H W"],
    normalise: Normalise,
    config: RecoveryConfig,
    *,
    checkpoints: Path | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[RecoveryRecord]:
    """Train ``model`` in place, maps and all, to match the features of ``original``; a record after each step.

    At the end, also an early one by an error or by a caller that stops, its maps are frozen again. A model of
    half precision is trained in float32, as its steps are smaller than the rounding, and is of its own type again at
    the end. The order of the pictures and every draw are functions of (seed, step), so that an interrupted training
    ends as one that was not. One that goes on from a checkpoint first yields the records before it again.

    Args:
        model: the converted model.
        original: the model it was converted from; in evaluation mode.
        pictures: without labels.
        normalise: what the models take them by.
        config: the recipe.
        checkpoints: a folder to keep the last two checkpoints in, and to continue from. With it, signals are answered
            by a checkpoint, as those of ``train``.
        accelerator: of a program that made its own.

    Raises:
        ValueError: fewer pictures than a batch, or checkpoints of another training.
        FloatingPointError: the loss is not finite; the step is named.
        MemoryError: out of memory: says what to lower.
    """
    if len(pictures) < config.batch_size:
        raise ValueError(f"batch_size must be at most {len(pictures)}, the pictures, got {config.batch_size}")
    state = Recovery(model, original, pictures, normalise, config, accelerator or Accelerator())
    if checkpoints is not None:
        with finished(state):
            state.restore(checkpoints)
    return steps(state, checkpoints)


def steps(state: "Recovery", checkpoints: Path | None) -> Iterator[RecoveryRecord]:
    """The records until now, and the rest of a training."""
    config = state.config
    first = state.step - len(state.losses) + 1
    with finished(state), StopSignal(active=checkpoints is not None) as stop:
        yield from (RecoveryRecord(number, loss) for number, loss in enumerate(state.losses, first))
        while state.step < config.steps:
            loss = state.update()
            due = state.step % config.checkpoint_every == 0 or state.step == config.steps
            if checkpoints is not None and due:
                state.save(checkpoints)
            yield RecoveryRecord(state.step, loss)
            if checkpoints is not None and stop.received:
                if not due:
                    state.save(checkpoints)
                stop.stop()
    state.finish()


@contextmanager
def finished(state: "Recovery") -> Iterator[None]:
    """Finish a training that what is inside ends early; GeneratorExit does, of a caller who has enough."""
    try:
        yield
    except BaseException:
        with suppress(ValueError):  # of maps that are no longer finite, as the error inside says
            state.finish()
        raise


class Recovery:
    """The state of a recovery."""

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        pictures: Tensor,
        normalise: Normalise,
        config: RecoveryConfig,
        accelerator: Accelerator,
    ) -> None:
        refuse_settings_of(accelerator)
        self.config, self.normalise, self.accelerator = config, normalise, accelerator
        self.device = accelerator.device
        self.pictures = pictures
        converted_layers(model)  # before anything is changed
        self.frozen = {name: p.requires_grad for name, p in model.named_parameters()}
        self.types = to_single(model)
        thaw(model)
        self.model: Any = model.to(self.device).train()
        self.original: Any = copied(original).to(self.device).eval().requires_grad_(False)
        to_single(self.original)
        self.optimizer = create_optimizer_v2(
            groups_of(model, config), opt="adamw", lr=config.lr, weight_decay=config.weight_decay
        )
        warmup = round(config.warmup * config.steps)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            num_epochs=config.steps,
            warmup_epochs=warmup,
            warmup_lr=config.lr / (warmup + 1),  # timm's default of 1e-5 may be more than the rate itself
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        self.runner = accelerator.prepare_model(Features(self.model))
        self.step = 0
        self.losses: list[float] = []  # of every step

    def update(self) -> float:
        """One optimizer step on the next batch; returns its loss."""
        devices = [self.device] if self.device.type == "cuda" else []
        config = self.config
        with (
            torch.random.fork_rng(devices),
            memory_advice(f"batch_size {config.batch_size}: lower batch_size"),
        ):
            torch.manual_seed(derived_seed(config.seed, DRAWS, self.accelerator.process_index, self.step))
            batch = self.normalise(random_crop_flip(self.batch(), config.padding, config.flip))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
                with torch.no_grad():
                    target = Features(self.original)(batch)
                found = self.runner(batch)
            loss = feature_loss(found, target)
            if not loss.isfinite():
                raise FloatingPointError(
                    f"the loss became {loss.item()} at step {self.step + 1} of {config.steps}"
                )
            self.accelerator.backward(loss)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.scheduler.step_update(self.step)
        self.losses.append(loss.item())
        return self.losses[-1]

    def batch(self) -> Tensor:
        """The next pictures of this process; a pass over all of them is in a new random order."""
        size, processes = self.config.batch_size, self.accelerator.num_processes
        per_pass = len(self.pictures) // (size * processes)
        if not per_pass:
            raise ValueError(
                f"{processes} processes with batches of {size} need more than {len(self.pictures)} pictures"
            )
        number, place = divmod(self.step, per_pass)
        generator = Generator().manual_seed(derived_seed(self.config.seed, ORDER, number))
        order = torch.randperm(len(self.pictures), generator=generator)
        first = (place * processes + self.accelerator.process_index) * size
        return self.pictures[order[first : first + size]].to(self.device)

    def save(self, folder: Path) -> None:
        """Write a checkpoint (by the main process alone)."""
        tensors, others = flatten_optimizer(self.optimizer)
        held = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        held |= {f"optimizer.{name}": value for name, value in tensors.items()}
        if self.accelerator.is_main_process:
            meta = {"run": asdict(self.config), "optimizer": others, "losses": self.losses}
            save_checkpoint(folder, self.step, held, meta)

    def restore(self, folder: Path) -> None:
        """Continue from the newest whole checkpoint, if any. Raises ValueError if it is of another training."""
        checkpoint = load_latest(folder)
        if checkpoint is None:
            return
        if checkpoint.meta["run"] != asdict(self.config):
            raise ValueError(
                f"the checkpoint in {folder} is of {checkpoint.meta['run']}, this run of {asdict(self.config)}"
            )
        try:
            self.model.load_state_dict(without_prefix("model.", checkpoint.tensors))
        except RuntimeError as error:
            raise ValueError(f"the checkpoint in {folder} is of another model: {error}") from error
        load_optimizer(
            self.optimizer, without_prefix("optimizer.", checkpoint.tensors), checkpoint.meta["optimizer"]
        )
        self.step = checkpoint.step
        self.losses = checkpoint.meta.get("losses", [])  # older ones have none
        self.scheduler.step_update(self.step)

    def finish(self) -> None:
        """Freeze the maps, and leave the model in evaluation mode, its types and what can be trained as before."""
        try:
            freeze_maps(self.model)
        finally:
            to_types(self.model, self.types)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self.frozen.get(name, False))
            self.model.eval()

"""The optimizer of a training and its learning rates, both of timm."""

from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from posattn.vision.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """timm's optimizer; AdamW as one fused kernel, which takes a third of the time on a CPU."""
    fused: dict[str, Any] = {"fused": True} if config.optimizer == "adamw" else {}
    return create_optimizer_v2(
        model, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, **fused
    )


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> Scheduler:
    """A linear warmup and a cosine to 0; a function of the step alone, so it has no state to save."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        num_epochs=config.epochs,
        warmup_lr=min(1e-5, config.lr),  # timm's own, which may be above the largest
        warmup_epochs=config.warmup_epochs,  # type: ignore[arg-type]  # a part of an epoch is fine
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler

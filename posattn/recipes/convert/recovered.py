"""Refit and recovery as parts of a run: refitted weights are kept, recovery resumes from its checkpoints."""

from typing import Any

from rich.progress import Progress
from torch import Tensor, nn

from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import in_batches, normalise_of
from posattn.runs.folder import CHECKPOINTS, RunFolder
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.recovery import recover
from posattn.vision.convert.refit import check_refit, refit

REFITTED = "refitted"  # the file of the run that holds the refitted weights
LOGGED = 10  # steps that a logged loss is the mean of


def require_refit(config: ConvertConfig, model: nn.Module, pictures: Tensor) -> None:
    """Raise TypeError, before anything is measured, if a refit is asked for that the model does not allow."""
    if config.refit:
        try:
            check_refit(model, normalise_of(model)(pictures[:1]))
        except TypeError as error:
            raise TypeError(f"{error}; use --refit 0") from error


def refitted(
    config: ConvertConfig,
    model: nn.Module,
    original: nn.Module,
    pictures: Tensor,
    run: RunFolder,
    progress: Progress,
) -> Any:
    """The converted model with its linear layers refitted, on the original's device."""
    task = progress.add_task("convert: refit", total=None)

    def compute() -> int:
        device = next(original.parameters()).device
        chosen = pictures[: config.refit].to(device)
        batches = in_batches(chosen, normalise_of(original))
        refit(model.to(device), original, batches, lambda count: progress.advance(task, count))
        run.save_tensors(REFITTED, model.state_dict())
        return len(chosen)

    run.unit("refit", compute)
    model.load_state_dict(run.load_tensors(REFITTED))
    return model


def recovered(
    config: ConvertConfig,
    model: nn.Module,
    original: nn.Module,
    pictures: Tensor,
    run: RunFolder,
    progress: Progress,
) -> Any:
    """The converted model, trained to the features of the original."""
    settings = RecoveryConfig(
        steps=config.recover,
        batch_size=config.batch_size,
        lr=config.lr,
        maps_lr=config.maps_lr,
        seed=config.seed,
    )
    task = progress.add_task("convert: recovery", total=config.recover)
    records = recover(
        model,
        original,
        pictures,
        normalise_of(original),
        settings,
        checkpoints=run.path / CHECKPOINTS / "recovery",
    )
    losses: list[float] = []
    done = {event["step"] for event in run.events("recovery")}
    for record in records:
        losses.append(record.loss)
        progress.update(task, completed=record.step)
        if record.step % LOGGED == 0 or record.step == config.recover:
            if record.step not in done:
                run.log("recovery", step=record.step, loss=sum(losses) / len(losses))
            losses = []
    return model

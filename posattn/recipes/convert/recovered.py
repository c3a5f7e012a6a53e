"""Refit and recovery as parts of a run: refitted weights are kept, recovery resumes from its checkpoints."""

from statistics import fmean
from typing import Any, NamedTuple

from rich.progress import Progress
from torch import Tensor, nn

from posattn.recipes.convert.plan import Plan
from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import in_batches, normalise_of
from posattn.runs.folder import CHECKPOINTS, RunFolder
from posattn.vision.convert.better import Verdict, keep_better
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.recovery import recover
from posattn.vision.convert.refit import HELD, check_refit, refit

REFITTED = "refitted"  # the file of the run that holds the refitted weights
CROP = 28  # a random crop of recovery moves a picture by at most this part of its side
LOGGED = 10  # steps that a loss of the result is the mean of


class Fit(NamedTuple):
    """What a converted model is fitted to its original with."""

    config: ConvertConfig
    original: nn.Module
    pictures: Tensor
    run: RunFolder
    progress: Progress


def require_fit(fit: Fit) -> None:
    """Raise, before anything is measured, what a refit or a recovery would raise of the model or the pictures."""
    config, pictures = fit.config, fit.pictures
    for wanted, flag, least in (
        (config.refit, "--refit", HELD),
        (config.recover, "--batch-size", config.batch_size),
    ):
        if wanted and len(pictures) < least:
            raise ValueError(
                f"{flag} needs at least {least} pictures besides those of --ranking and --measured, got {len(pictures)}"
            )
    if config.refit:
        device = next(fit.original.parameters()).device
        try:
            check_refit(fit.original, normalise_of(fit.original)(pictures[:1].to(device)))
        except TypeError as error:
            raise TypeError(f"{error}; use --refit 0") from error


def refitted(fit: Fit, model: nn.Module) -> Any:
    """The converted model with its linear layers refitted, on the original's device."""
    task = fit.progress.add_task("convert: refit", total=None)

    def compute() -> int:
        device = next(fit.original.parameters()).device
        chosen = fit.pictures[: fit.config.refit].to(device)
        batches = in_batches(chosen, normalise_of(fit.original))
        refit(model.to(device), fit.original, batches, lambda count: fit.progress.advance(task, count))
        fit.run.save_tensors(REFITTED, model.state_dict())
        return len(chosen)

    fit.run.unit("refit", compute)
    model.load_state_dict(fit.run.load_tensors(REFITTED))
    return model


def recovered(fit: Fit, model: nn.Module) -> Any:
    """The converted model, trained to the features of the original."""
    config, run = fit.config, fit.run
    settings = RecoveryConfig(
        steps=config.recover,
        batch_size=config.batch_size,
        lr=config.lr,
        maps_lr=config.maps_lr,
        padding=min(fit.pictures.shape[2:]) // CROP,
        seed=config.seed,
    )
    task = fit.progress.add_task("convert: recovery", total=config.recover)
    folder = run.path / CHECKPOINTS / "recovery"
    records = recover(
        model, fit.original, fit.pictures, normalise_of(fit.original), settings, checkpoints=folder
    )
    done = {event["step"] for event in run.events("recovery")}
    for record in records:
        fit.progress.update(task, completed=record.step)
        if record.step not in done:
            run.log("recovery", step=record.step, loss=record.loss)
    return model


def recovery_losses(run: RunFolder) -> list[float]:
    """The loss of a recovery, the mean of every ``LOGGED`` steps in turn."""
    found = {event["step"]: event["loss"] for event in run.events("recovery")}
    losses = [found[step] for step in sorted(found)]
    return [fmean(losses[first : first + LOGGED]) for first in range(0, len(losses), LOGGED)]


def judged(model: nn.Module, before: dict[str, Tensor], plan: Plan) -> Verdict:
    """Whether a recovered model is better on the pictures of the ranking, which it was not fitted to.

    If not, it gets its weights from before.
    """
    quality, batches = plan.ranking.quality, plan.ranking.batches
    return keep_better(model.to(batches[0].device), before, quality, batches, plan.metric)

"""Recovery as a part of a run: logged, and resumed from its checkpoints."""

from typing import Any

from rich.progress import Progress
from torch import Tensor, nn

from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import normalise_of
from posattn.runs.folder import CHECKPOINTS, RunFolder
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.recovery import recover

LOGGED = 10  # steps that a logged loss is the mean of


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

"""Logs of a training: the run's journal, TensorBoard, and a progress bar."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Event, Thread
from types import TracebackType
from typing import Any

from accelerate import PartialState
from rich.progress import Progress, TaskID

from posattn.runs.device import choose_precision
from posattn.runs.folder import TENSORBOARD, RunFolder
from posattn.vision.training.compiling import compiler_of
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.record import TrainRecord

FOLLOWED_EVERY = 0.5  # seconds


class TrainingLog:
    """The log of one training: one line per record in metrics.jsonl, and optionally TensorBoard files.

    With several processes, the main one writes. A training resumed from a checkpoint repeats the steps after it: the
    later line of a step counts in ``rows``, and TensorBoard drops the earlier one.

    ``notes`` are the rows in which the caller measured something. ``train(..., notes=log.notes)`` keeps them in its
    checkpoints: they are in ``rows`` even if the journal loses their lines.

    Args:
        run: the run folder.
        name: of the training: the event in metrics.jsonl and the folder below ``tensorboard``.
        tensorboard: write TensorBoard's files too.

    Raises:
        ValueError: TensorBoard is requested but not installed.
    """

    def __init__(self, run: RunFolder, name: str, tensorboard: bool = False) -> None:
        if tensorboard and find_spec("tensorboard") is None:
            raise ValueError("TensorBoard logs need: pip install 'posattn[tensorboard]'")
        self.run, self.name, self.tensorboard = run, name, tensorboard
        self.notes: list[dict[str, Any]] = []
        self._rows = {row["step"]: row for row in run.events(name)}
        self._writer: Any = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The log, one row per step, including those before an interruption."""
        rows = {row["step"]: row for row in self.notes} | self._rows
        return [rows[step] for step in sorted(rows)]

    def write(self, record: TrainRecord, **measured: float) -> None:
        """Log a record and what the caller measured at it, such as ``accuracy``."""
        row = record.scalars | measured
        self._rows[record.step] = row
        if measured:
            self.notes.append(row)
        if not PartialState().is_main_process:
            return
        self.run.log(self.name, **row)
        if self.tensorboard:
            self._write_tensorboard(row)

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            folder = self.run.path / TENSORBOARD / self.name
            self._writer = SummaryWriter(str(folder), purge_step=row["step"])
        for key in row.keys() - {"step", "steps", "end_of_epoch", "precision", "compiled"}:
            self._writer.add_scalar(key, row[key], row["step"])

    def close(self) -> None:
        """Flush TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TrainingBars:
    """A progress bar for each running training: steps, loss and images per second."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}

    def show(self, name: str, scalars: dict[str, Any]) -> None:
        """Update the bar of a training from a record."""
        said = f"{name}: loss {scalars['loss']:.3f}, {scalars['images_per_second']:,.0f} images/s"
        step, steps = scalars["step"], scalars["steps"]
        if name not in self.tasks:  # from where it is, so that a resumed training's time left is right
            self.tasks[name] = self.progress.add_task(said, total=steps, completed=step)
        self.progress.update(
            self.tasks[name], description=said, completed=step, visible=step < steps, refresh=step == steps
        )


def training_bar(records: Iterable[TrainRecord], progress: Progress, name: str) -> Iterator[TrainRecord]:
    """Yield the records of a training in this process and update its bar."""
    bars = TrainingBars(progress)
    for record in records:
        bars.show(name, record.scalars)
        yield record


def show_precision(config: TrainConfig, progress: Progress) -> None:
    """Print one line on the precision of the coming trainings and the reason for it, and whether they are compiled."""
    device = PartialState().device
    line = f"posattn: {choose_precision(config.precision, str(device))}"
    if config.compile and not compiler_of(device.type):
        line += "; not compiled: no compiler was found"
    progress.console.print(line, soft_wrap=True, highlight=False)


@contextmanager
def follow_trainings(run: RunFolder, progress: Progress, config: TrainConfig) -> Iterator[None]:
    """Context that shows a bar for every training that any process logs into the run folder.

    It reads the lines that ``TrainingLog`` adds to metrics.jsonl. The precision of the trainings is printed first.
    """
    show_precision(config, progress)
    bars, stop = TrainingBars(progress), Event()
    _, start = run.journal.read_from()

    def follow() -> None:
        place = start
        while not stop.wait(FOLLOWED_EVERY):
            lines, place = run.journal.read_from(place)
            for line in lines:
                if {"step", "steps", "images_per_second"} <= line.keys():
                    bars.show(line["event"], line)

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

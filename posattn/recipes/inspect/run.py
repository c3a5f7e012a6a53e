"""`posattn inspect`: from a model and pictures to a folder with a table, maps and a page."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor, nn

from posattn.recipes.inspect.models import load_model, refuse_settings
from posattn.recipes.inspect.settings import InspectConfig
from posattn.recipes.kit.sources import TrainedModels, folder_config
from posattn.runs.folder import RunFolder
from posattn.runs.page import printable
from posattn.vision.data.decoding import extensions
from posattn.vision.data.images import evenly_spaced, to_float
from posattn.vision.data.pictures import LISTS, Pictures
from posattn.vision.inspect.average import STABLE
from posattn.vision.inspect.inspection import inspect_model
from posattn.vision.inspect.positions import by_distance
from posattn.vision.inspect.results import Inspection, LayerResult

BATCH = 32  # pictures decoded at once
START = ":start"  # suffix of a model's name for the random start of its training


class Subject(NamedTuple):
    """A model, batches of images as it takes them, how many they are, their mean and deviation, and where the
    weights come from."""

    model: nn.Module
    batches: Iterable[Tensor]
    total: int
    mean: Tensor
    std: Tensor
    weights: str
    notes: list[str]


def run(config: InspectConfig, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Inspect the model; the table and the maps go into the run folder, the rest into result.json.

    Raises the errors of ``inspect_attention``; a partial table is kept in the folder.
    """
    subject = load_subject(config)
    if subject.total < 2:
        raise ValueError(f"statistics over images need at least two, {config.images} holds {subject.total}")
    say(subject.notes, progress)
    task = progress.add_task("images", total=subject.total)
    batches = Counted(subject.batches, subject.total, max(1, config.examples), progress, task)

    def keep_measured(error: BaseException, measured: Inspection) -> None:
        save_table(measured.table(), folder)
        where = f"{folder.path}/table.csv"
        error.add_note(f"(the table of the first {measured.images} images is in {where})")

    inspection = inspect_model(
        subject.model.to("cuda" if torch.cuda.is_available() else "cpu"),
        batches,
        layers=config.layers,
        memory=config.memory * 1e9,
        batch_size=config.batch_size,
        examples=config.examples,
        recover=True,
        announce=lambda plan: progress.console.print(str(plan), soft_wrap=True),
        on_error=keep_measured,
    )
    table = inspection.table()
    save_table(table, folder)
    pictures = (
        ((torch.cat(batches.first) * subject.std + subject.mean).clamp(0, 1) * 255).round().to(torch.uint8)
    )
    folder.save_tensors("maps", tensors(inspection, pictures))
    digest = (
        subject.batches.digest.hexdigest() if isinstance(subject.batches, Transformed) else inspection.digest
    )
    skipped = getattr(subject.batches, "skipped", 0)
    left_out = [f"skipped, cannot be decoded: {skipped} of {subject.total} pictures"] if skipped else []
    say(left_out, progress)
    return result_of(config, subject.weights, inspection, table, subject.notes + left_out) | {
        "skipped": skipped,
        "images_digest": digest,
    }


def say(notes: list[str], progress: Progress) -> None:
    """Print what qualifies the numbers."""
    for note in notes:
        progress.console.print(printable(note), soft_wrap=True, markup=False)


def load_subject(config: InspectConfig) -> Subject:
    """The model and its images: of a run folder as they were trained on, else by the model's data config."""
    folder = Path(config.model)
    if "recipe" in folder_config(folder):
        return of_run(folder, config)
    if folder.is_dir() and not folder_config(folder):
        raise ValueError(f"{folder} is no run folder, and holds no config.json of timm or transformers")
    loaded = load_model(config)
    pictures = Pictures(config.images, config.data_dir, config.limit, skip_corrupt=config.skip_corrupt)
    batches = Transformed(pictures, loaded.transform)
    notes = [*loaded.notes, *pictures.notes]
    return Subject(loaded.model, batches, len(pictures), loaded.mean, loaded.std, loaded.weights, notes)


def of_run(folder: Path, config: InspectConfig) -> Subject:
    """A model trained by a recipe on images, or the start it had, on a set as that run reads it."""
    refuse_settings(config, "run folders", "img_size", "in_chans", "skip_corrupt")
    models = TrainedModels(folder)
    wanted = config.checkpoint or ""
    file = wanted.removesuffix(START)
    if file not in models.names:
        listed = ", ".join(models.names)
        raise ValueError(
            f"{folder} holds {listed}: name one as checkpoint, with {START} for its start; got {wanted!r}"
        )
    path = Path(config.images)
    if path.is_file() and path.suffix.lower() in LISTS | extensions():
        raise ValueError(
            "a model of a run folder is inspected on a set: a name of `posattn list data`, a folder of class folders "
            f"or a parquet file, got {path}"
        )
    held: Any = models.data(data=config.images, data_dir=config.data_dir)
    model = models.model(file, held, trained=not wanted.endswith(START))
    notes = models.check_shape(config.images, held)
    pixels = to_float(held.images[evenly_spaced(len(held.images), config.limit)])
    if getattr(held, "divided", False) and config.images != models.settings["data"]["data"]:
        notes.append(
            f"{config.images} has no test split: inspected on {len(pixels)} images of a fixed fifth of it"
        )
    half = torch.full((pixels.shape[1], 1, 1), 0.5)
    return Subject(model.eval(), pixels.split(BATCH), len(pixels), half, half, wanted, notes)


class Transformed:
    """Pictures as batches of a model's input; can be iterated repeatedly."""

    def __init__(self, pictures: Pictures, transform: Any) -> None:
        self.pictures, self.transform = pictures, transform
        self.digest = sha256()  # of the decoded pictures, before the model's own transform

    @property
    def skipped(self) -> int:
        """The number of pictures of the last pass that could not be decoded."""
        return self.pictures.skipped

    def __iter__(self) -> Iterator[Tensor]:
        pictures = iter(self.pictures)
        self.digest = sha256()
        while part := list(islice(pictures, BATCH)):
            for picture in part:
                self.digest.update(repr(picture.size).encode() + picture.convert("RGB").tobytes())
            yield stacked([self.transform(picture) for picture in part])


def stacked(images: list[Tensor]) -> Tensor:
    """The images as a batch. Raises ValueError where a transform keeps the shapes of pictures, which differ."""
    shapes = list(dict.fromkeys("x".join(map(str, image.shape[1:])) for image in images))
    if len(shapes) > 1:
        raise ValueError(
            f"all images must have one size, got {shapes[0]} and {shapes[1]} after the model's own transform, which "
            "does not crop: give pictures of one shape"
        )
    return torch.stack(images)


class Counted:
    """Batches, each counted when it is done with, in every pass; their first ``examples`` images are kept."""

    def __init__(
        self, batches: Iterable[Tensor], total: int, examples: int, progress: Progress, task: Any
    ) -> None:
        self.batches, self.total, self.examples = batches, total, examples
        self.progress, self.task = progress, task
        self.first: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        self.first = []
        self.progress.reset(self.task, total=self.total)
        for batch in self.batches:
            if (lacking := self.examples - sum(map(len, self.first))) > 0:
                self.first.append(batch[:lacking])
            yield batch
            self.progress.advance(self.task, len(batch))


def save_table(table: pd.DataFrame, run: RunFolder) -> None:
    """table.parquet and table.csv."""
    run.save("table.parquet", table.to_parquet(index=False))
    run.save("table.csv", table.to_csv(index=False).encode())


def tensors(inspection: Inspection, pictures: Tensor) -> dict[str, Tensor]:
    """Of each layer average maps (h, Q, K), those of example images (e, h, Q, K), the norms of the examples' patches
    (e, D), and the measures without each group of images (G, k, h), (G, 2); the examples, and similarity."""
    held = {"pictures": pictures}
    for layer, (path, result) in enumerate(inspection.results.items()):
        held[f"average.{layer}"] = result.average.half()
        held[f"without.{layer}"] = result.without
        if path in inspection.example_maps:
            held[f"examples.{layer}"] = inspection.example_maps[path]
        if result.norms is not None:
            held[f"norms_without.{layer}"] = result.norms[2]
        if path in inspection.example_norms:
            held[f"norms.{layer}"] = inspection.example_norms[path]
    return held if inspection.similarity is None else {**held, "similarity": inspection.similarity[1].half()}


def result_of(
    config: InspectConfig, weights: str, inspection: Inspection, table: pd.DataFrame, notes: list[str]
) -> dict[str, Any]:
    """result.json of an inspection; ``notes`` qualify its numbers."""
    first, layouts = inspection.layouts[0], inspection.layouts
    similar = inspection.similarity
    grids = ", ".join(dict.fromkeys(str(layout.queries) for layout in layouts))
    return {
        "kind": "inspection",
        "title": f"Where {title_of(config)} looks",
        "summary": f"{weights}: {inspection.images:,} images of {config.images}; "
        f"{grids} patches; class tokens and registers: {first.queries.prefix}."
        f"{' Notes: ' if notes else ''}{'; '.join(notes)}",
        "notes": notes,
        **{str(name): value for name, value in table.attrs.items()},
        "queries": [list(layout.queries) for layout in layouts],
        "keys": [list(layout.keys) for layout in layouts],
        "radius": inspection.radius,
        "similarity_by_distance": [] if similar is None else by_distance(similar[1], similar[0]),
        "similarity_grid": None if similar is None else list(similar[0]),
        "recovered": [recovered_of(result) for result in inspection.results.values()],
        "stable_from": STABLE,
        "page": [],
    }


def title_of(config: InspectConfig) -> str:
    """What the model is called: of a folder the model in it, or the folder's own name."""
    folder = Path(config.model)
    return (config.checkpoint or folder.resolve().name) if folder.is_dir() else config.model


def recovered_of(result: LayerResult) -> dict[str, Any] | None:
    """The sets recovered in each head of a layer, and how far two halves of the images agree on them."""
    if result.recovered is None:
        return None
    sets, agreement = result.recovered
    return {"sets": sets.tolist(), "agreement": agreement.tolist()}

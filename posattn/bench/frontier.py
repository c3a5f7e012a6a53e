"""The frontier of quality against speed: a ViT, the same with merged tokens, and models converted from it.

``python -m posattn.bench.frontier MODEL --images DIR --r 8 16 --converted FOLDER ...`` prints it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import timm
import torch
import tyro
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from posattn.bench.merging import merge_tokens
from posattn.bench.neighbours import accuracy, part_of
from posattn.bench.timing import Quartiles, interleaved, quartiles
from posattn.settings import Count, Distincts, Pixels, TwoOrMore, check
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.quality import COSINE, NEIGHBOURS, Estimate, Quality, estimate, features_of
from posattn.vision.convert.saving import load
from posattn.vision.data.config import refuse_data_dir
from posattn.vision.data.folders import check_splits
from posattn.vision.data.images import load_images
from posattn.vision.data.pictures import Pictures


class Point(NamedTuple):
    """A model on the frontier."""

    losses: dict[str, Estimate]  # what is kept of the original's features, by measure
    images_per_second: Quartiles
    speedup: Quartiles  # relative to the original in the same round


def frontier(
    models: Mapping[str, nn.Module], batches: list[Tensor], shape: Sequence[int], rounds: int, nearest: int
) -> dict[str, Point]:
    """What each model keeps of the features of the first, and its speed, all interleaved.

    Args:
        models: by name, the original first.
        batches: images that the features are compared on.
        shape: of the batch that is timed.
        rounds: timed rounds, after one warm-up.
        nearest: neighbours of a picture.
    """
    images = torch.randn(*shape, dtype=batches[0].dtype)
    original = next(iter(models))
    with torch.inference_mode():
        quality = Quality(features_of(models[original], batches), nearest=nearest)
        kept = {name: quality.of(features_of(model, batches)) for name, model in models.items()}
        seconds = interleaved({name: partial(model, images) for name, model in models.items()}, rounds)
    return {
        name: Point(
            {measure: estimate(kept[name][measure]) for measure in (COSINE, NEIGHBOURS)},
            quartiles([shape[0] / each for each in seconds[name]]),
            quartiles([a / b for a, b in zip(seconds[original], seconds[name], strict=True)]),
        )
        for name in models
    }


@dataclass(frozen=True)
class Settings:
    """Quality and speed of a ViT, of the same with merged tokens, and of models converted from it."""

    model: tyro.conf.Positional[str]
    """The original, a timm model."""
    images: str
    """A folder of pictures."""
    checkpoint: Path | None = None
    """Its weights; default: the pretrained ones."""
    image_size: Pixels | None = None
    """Default: the model's own."""
    limit: Count = 40
    """Pictures that the features are compared on."""
    nearest: Count = 5
    """Neighbours of a picture."""
    labelled: str | None = None
    """A labelled set: its test pictures are classified by their nearest neighbours among the training pictures too."""
    data_dir: Path | None = None
    """Where the files of a named set are."""
    bank: Count | None = None
    """Training pictures of it, at random; default: all."""
    tested: TwoOrMore | None = None
    """Test pictures of it, at random; default: all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of all models and pictures."""
    r: Annotated[Distincts[Count], tyro.conf.arg(name="r")] = (8, 16, 32)
    """Tokens merged in each block, one model for each."""
    converted: Distincts[Path] = ()
    """Folders of `posattn convert`, of the same image size."""
    rounds: TwoOrMore = 5
    """Timed rounds, after one warm-up."""
    batch: Count = 1
    """Pictures of the timed batch."""
    threads: Count = 1
    """Threads of a CPU."""

    def validate(self) -> None:
        """Raise ValueError for fewer pictures than the neighbours need, or a setting that no labelled set reads."""
        if self.limit < self.nearest + 2:
            raise ValueError(
                f"limit must be at least {self.nearest + 2} for {self.nearest} nearest neighbours, got {self.limit}"
            )
        if self.labelled is not None:
            refuse_data_dir(self.labelled, self.data_dir)
            return
        for name in ("data_dir", "bank", "tested"):
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} is for a labelled set (--labelled), got {value}")


def original_of(settings: Settings) -> ViT:
    """The model to compare with, at the image size.

    Raises ValueError, TypeError or FileNotFoundError for a model or a checkpoint that is not there or does not fit.
    """
    if not timm.is_model(settings.model):
        raise ValueError(f"unknown model {settings.model!r}: see timm.list_models()")
    path = settings.checkpoint
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    vit = adapter_of(
        timm.create_model(settings.model, pretrained=path is None, checkpoint_path=str(path or "")).eval()
    )
    if settings.image_size is not None:
        vit.set_size((settings.image_size, settings.image_size))
    return vit


def models_of(settings: Settings, vit: ViT) -> dict[str, nn.Module]:
    """The original first, then it with merged tokens, then the converted ones.

    Raises ValueError for a converted model of another image size.
    """
    models = {"original": vit.model}
    models |= {f"merging, r = {r}": merge_tokens(vit.model, r) for r in settings.r}
    for folder in settings.converted:
        models[str(folder)] = load(folder)
        size = adapter_of(models[str(folder)]).image_size
        if size != vit.image_size:
            raise ValueError(f"--converted {folder} takes {size}, the original {vit.image_size}")
    return models


def accuracies(settings: Settings, models: Mapping[str, nn.Module]) -> dict[str, dict[str, Estimate]]:
    """The accuracy of each model's nearest neighbours, and the points it loses, paired over pictures.

    Raises ValueError or FileNotFoundError for a set that is not there, splits of other classes, or pictures that do
    not fit.
    """
    if settings.labelled is None:
        return {}
    bank, tested = (
        part_of(load_images(settings.labelled, split, settings.data_dir), count)
        for split, count in (("train", settings.bank), ("test", settings.tested))
    )
    check_splits(settings.labelled, bank.classes, tested.classes)
    measure = partial(
        accuracy, bank=bank, tested=tested, nearest=settings.nearest, dtype=getattr(torch, settings.dtype)
    )
    right = {name: measure(model, title=name).double() for name, model in models.items()}
    before = next(iter(right.values()))
    return {name: {"accuracy": estimate(now), "lost": estimate(before - now)} for name, now in right.items()}


def run(settings: Settings) -> None:
    """Print the frontier."""
    check(settings)
    torch.set_num_threads(settings.threads)
    vit = original_of(settings)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    models = {name: model.to(dtype) for name, model in models_of(settings, vit).items()}
    shape = (settings.batch, vit.channels, *vit.image_size)
    transform = create_transform(**{**resolve_model_data_config(vit.model), "input_size": shape[1:]})
    pictures = [transform(picture) for picture in Pictures(settings.images, None, settings.limit)]
    if len(pictures) < settings.nearest + 2:
        raise ValueError(
            f"{settings.images} holds {len(pictures)} pictures: {settings.nearest} nearest neighbours need at least "
            f"{settings.nearest + 2}"
        )
    batches = list(torch.stack(pictures).to(dtype).split(8))
    right = accuracies(settings, models)
    found = frontier(models, batches, shape, settings.rounds, settings.nearest)
    names = ("cosine", "neighbours", *(("accuracy", "lost") if right else ()))
    print(f"{'model':40}", *(f"{name:>17}" for name in names), f"{'images/s':>9} {'speedup (quartiles)':>22}")
    for name, point in found.items():
        losses = [*point.losses.values(), *right.get(name, {}).values()]
        median, low, high = point.speedup
        rate = f"{point.images_per_second.median:9.3f} {median:9.3f} ({low:.3f}-{high:.3f})"
        print(f"{name:40}", *(f"{f'{mean:.4f} ± {error:.4f}':>17}" for mean, error in losses), rate)


def main(args: Sequence[str] | None = None) -> None:
    """The command; what is wrong with its settings is said in one line."""
    settings = tyro.cli(Settings, args=args, prog="python -m posattn.bench.frontier")
    try:
        run(settings)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise SystemExit(f"posattn.bench.frontier: {error}") from error


if __name__ == "__main__":
    main()

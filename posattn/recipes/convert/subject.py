"""The pictures to convert a model with."""

from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import Progress
from torch import Generator, Tensor, nn

from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.inspect.models import Channels, matching
from posattn.recipes.kit.sources import TrainedModels, folder_config
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.heads import TABLE
from posattn.vision.convert.recovery import Normalise
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.data.folders import check_splits
from posattn.vision.data.images import ImageSet
from posattn.vision.data.pictures import Pictures

BATCH = 32


class Material(NamedTuple):
    """Pictures of 0 to 255, (n, c, H, W), each for one use; and the labels of those that losses are measured on."""

    calibration: Tensor
    ranking: Tensor
    measured: Tensor
    fitting: Tensor  # to refit and recover on: all but those that losses are measured on
    ranking_labels: Tensor | None
    measured_labels: Tensor | None
    classes: int | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Pictures and labels by their use."""
        return {name: value for name, value in self._asdict().items() if isinstance(value, Tensor)}


def normalise_of(model: nn.Module) -> Normalise:
    """The model's data config."""
    vit = adapter_of(model)
    settings = vit.data_config()
    mean, std = (tuple(matching(tuple(settings[name]), vit.channels)) for name in ("mean", "std"))
    return Normalise(mean, std)


def load_material(config: ConvertConfig, vit: ViT, progress: Progress) -> Material:
    """The pictures. Raises ValueError if there are too few, or they have other channels than the model takes."""
    read = labelled if config.labels else unlabelled
    return read(config, vit, progress)


def unlabelled(config: ConvertConfig, vit: ViT, progress: Progress) -> Material:
    """Pictures without labels, drawn at random from all of them."""
    wanted = config.measured + config.ranking + config.calibration
    used = config.measured + config.ranking + fitted(config)
    limit = config.limit if config.recover else min(used, config.limit or used)
    pictures = Pictures(config.images, config.data_dir, limit)
    require(config, len(pictures), wanted)
    transform = Channels(vit.transform(), vit.channels)
    held = [
        torch.as_tensor(transform(picture))
        for picture in progress.track(pictures, total=len(pictures), description="pictures")
    ]
    every = torch.stack(held)[torch.randperm(len(held), generator=Generator().manual_seed(config.seed))]
    measured, ranking, fitting = every.tensor_split([config.measured, config.measured + config.ranking])
    return Material(fitting[: config.calibration], ranking, measured, fitting, None, None, None)


def fitted(config: ConvertConfig) -> int:
    """How many pictures the maps and the refit need together: a refit begins with those of the maps."""
    return max(config.calibration, config.refit)


def labelled(config: ConvertConfig, vit: ViT, progress: Progress) -> Material:
    """Pictures with labels: those for measuring losses come from the test split, the rest from the training split."""
    size, channels = vit.image_size, vit.channels
    if size[0] != size[1]:
        raise ValueError(
            f"--labels is for models of square images, {config.model} takes {size[0]} x {size[1]}"
        )
    train, test = (
        load_labelled(config, vit, split)
        for split in progress.track(("train", "test"), description="pictures")
    )
    if test.shape[0] != channels:
        raise ValueError(f"{config.images} has {test.shape[0]} channels, {config.model} takes {channels}")
    check_splits(config.images, train.classes, test.classes)
    if train.num_classes < 2:
        raise ValueError(f"{config.images} has one class only, {train.classes[0]}: an accuracy needs two")
    require(config, len(test), config.measured, "test pictures")
    generator = Generator().manual_seed(config.seed)
    train = train.select(torch.randperm(len(train), generator=generator)[: config.limit])
    require(config, len(train), config.calibration + config.ranking, "training pictures", measured=False)
    test = test.select(torch.randperm(len(test), generator=generator)[: config.measured])
    fitting = train.images[config.ranking :]
    return Material(
        fitting[: config.calibration],
        train.images[: config.ranking],
        test.images,
        fitting if config.recover else fitting[: fitted(config)],
        train.labels[: config.ranking],
        test.labels,
        train.num_classes,
    )


def load_labelled(config: ConvertConfig, vit: ViT, split: str) -> ImageSet:
    """A split as the run tests on it whose model is converted, else by the model's data config."""
    folder = Path(config.model)
    if "recipe" in folder_config(folder):
        places = {"data": config.images, "data_dir": config.data_dir, "image_size": vit.image_size[0]}
        return TrainedModels(folder).data(split, **places)
    data = MemoryDataConfig(config.images, config.data_dir)
    held: ImageSet = data.load_transformed(split, vit.transform())
    return held


def require(
    config: ConvertConfig, found: int, wanted: int, what: str = "pictures", measured: bool = True
) -> None:
    """Raise ValueError if there are fewer pictures than wanted."""
    if found < wanted:
        flags = "--calibration, --ranking" + (" and --measured" if measured else "")
        raise ValueError(f"{config.images} holds {found} {what}, {flags} need {wanted}: lower them")


def in_batches(pictures: Tensor, normalise: Normalise) -> list[Tensor]:
    """Pictures as model inputs."""
    return [normalise(part) for part in pictures.split(BATCH)]


def check_sizes(config: ConvertConfig, vit: ViT) -> None:
    """Raise ValueError for sizes to time at that the patches do not divide, or that tables do not serve."""
    own = vit.image_size
    for size in config.sizes:
        vit.check_size((size, size), "--sizes")
        if (size, size) != own and TABLE in config.kinds:
            raise ValueError(
                f"tables serve {own[0]} x {own[1]} px only, got --sizes {size}: use --kinds relative convolution"
            )

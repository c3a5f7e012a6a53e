"""The model to convert and the pictures to do it with."""

from typing import Any, NamedTuple

import timm
import torch
from rich.progress import Progress
from timm.data import create_transform, resolve_model_data_config
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.recipes.convert.settings import ConvertConfig
from posattn.vision.convert.attention import TABLE
from posattn.vision.convert.parts import attention_of
from posattn.vision.convert.recovery import Normalise
from posattn.vision.data.images import load_images
from posattn.vision.data.pictures import Pictures

BATCH = 32


class Material(NamedTuple):
    """Pictures of 0 to 255, (n, c, H, W), each for one use; and the labels of those that losses are measured on."""

    calibration: Tensor
    ranking: Tensor
    measured: Tensor
    recovery: Tensor  # all but the measured ones
    ranking_labels: Tensor | None
    measured_labels: Tensor | None
    classes: int | None


def load_model(config: ConvertConfig) -> Any:
    """The model in evaluation mode, at the requested image size.

    Raises:
        TypeError: its heads cannot be replaced.
        ValueError: it has converted heads already, is not known, or does not take the image size; or the checkpoint
            does not fit it.
    """
    model = checked(config)
    if "converted" in getattr(model, "_model_args", {}):
        raise ValueError(f"{config.model} has converted heads already: convert the original model")
    if not attention_of(model):
        raise ValueError(
            f"{config.model} has no heads to convert: its attention is positional in every block"
        )
    if config.image_size is not None:
        set_size(model, config.image_size)
    return model.eval()


def checked(config: ConvertConfig) -> nn.Module:
    """The model with its weights, with tokens that do not vary by image."""
    if config.checkpoint is not None and not config.checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {config.checkpoint}")
    stored = config.model.startswith(("hf-hub:", "local-dir:"))
    if not stored and not timm.is_model(config.model):
        raise ValueError(f"unknown model {config.model!r}: see timm.list_models()")
    options: dict[str, Any] = {"pretrained": config.checkpoint is None}
    model = timm.create_model(config.model, **options)
    if getattr(model, "dynamic_img_size", False):
        model = timm.create_model(config.model, dynamic_img_size=False, **options)
    if config.checkpoint is not None:
        try:
            timm.models.load_checkpoint(model, str(config.checkpoint))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{config.checkpoint} does not fit {config.model}: {reason}") from error
    return model


def set_size(model: Any, size: int) -> None:
    """Another image size, in place. Raises ValueError if patches do not divide it, or the model's is fixed."""
    for side, patch in zip(("height", "width"), model.patch_embed.patch_size, strict=True):
        checks.divides(f"patch {side}", patch, f"image {side}", size)
    if tuple(model.patch_embed.img_size) == (size, size):
        return
    if not hasattr(model, "set_input_size"):
        raise ValueError(
            f"{type(model).__name__} has a fixed image size, {model.patch_embed.img_size}, not {size}"
        )
    model.set_input_size(img_size=(size, size))


def normalise_of(model: nn.Module) -> Normalise:
    """The model's data config."""
    settings = resolve_model_data_config(model)
    return Normalise(tuple(settings["mean"]), tuple(settings["std"]))


def load_material(config: ConvertConfig, model: Any, progress: Progress) -> Material:
    """The pictures. Raises ValueError if there are too few."""
    read = labelled if config.labels else unlabelled
    return read(config, model, progress)


def unlabelled(config: ConvertConfig, model: Any, progress: Progress) -> Material:
    """Pictures without labels, drawn at random from all of them."""
    wanted = config.calibration + config.ranking + config.measured
    limit = config.limit if config.recover else min(wanted, config.limit or wanted)
    pictures = Pictures(config.images, config.data_dir, limit)
    require(config, len(pictures), wanted)
    size = tuple(model.patch_embed.img_size)
    transform = create_transform(
        **{**resolve_model_data_config(model), "input_size": (3, *size)}, normalize=False
    )
    held = [
        torch.as_tensor(transform(picture))
        for picture in progress.track(pictures, total=len(pictures), description="pictures")
    ]
    every = torch.stack(held)[torch.randperm(len(held), generator=Generator().manual_seed(config.seed))]
    ends = torch.tensor([config.measured, config.ranking, config.calibration]).cumsum(0).tolist()
    measured, ranking, calibration = every.tensor_split(ends)[:3]
    return Material(calibration, ranking, measured, every[config.measured :], None, None, None)


def labelled(config: ConvertConfig, model: Any, progress: Progress) -> Material:
    """Pictures with labels: those for measuring losses come from the test split, the rest from the training split."""
    size = model.patch_embed.img_size[0]
    train, test = (
        load_images(config.images, split, config.data_dir, image_size=size)
        for split in progress.track(("train", "test"), description="pictures")
    )
    require(config, len(test), config.measured, "test pictures")
    generator = Generator().manual_seed(config.seed)
    train = train.select(torch.randperm(len(train), generator=generator)[: config.limit])
    require(config, len(train), config.calibration + config.ranking, "training pictures", measured=False)
    test = test.select(torch.randperm(len(test), generator=generator)[: config.measured])
    used = config.calibration + config.ranking
    return Material(
        train.images[config.ranking : used],
        train.images[: config.ranking],
        test.images,
        train.images if config.recover else train.images[:used],
        train.labels[: config.ranking],
        test.labels,
        train.num_classes,
    )


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


def check_sizes(config: ConvertConfig, model: Any) -> None:
    """Raise ValueError for sizes to time at that the patches do not divide, or that tables do not serve."""
    own = tuple(model.patch_embed.img_size)
    for size in config.sizes:
        for side, patch in zip(("height", "width"), model.patch_embed.patch_size, strict=True):
            checks.divides(f"patch {side}", patch, f"--sizes {side}", size)
        if (size, size) != own and TABLE in config.kinds:
            raise ValueError(
                f"tables serve {own[0]} x {own[1]} px only, got --sizes {size}: use --kinds relative convolution"
            )

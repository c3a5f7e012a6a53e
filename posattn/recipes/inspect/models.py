"""The model of `posattn inspect` and the transform of its pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.func import functional_call

from posattn import checks
from posattn.recipes.inspect.settings import InspectConfig
from posattn.recipes.kit.sources import (
    HUB,
    LOCAL,
    TORCHVISION,
    TRANSFORMERS,
    folder_config,
    loading,
    reach,
    torchvision_vit,
    transformers_for,
    transformers_model,
)
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import pair
from posattn.vision.inspect.adapters.transformers import mean_and_std
from posattn.vision.models.state_dicts import brief, load_checkpoint, read_checkpoint


class Loaded(NamedTuple):
    """A model in evaluation mode, the transform of its pictures with its mean and deviation, where its weights come
    from, and notes for the user."""

    model: nn.Module
    transform: Callable[[Any], Tensor]
    mean: Tensor
    std: Tensor
    weights: str
    notes: list[str]


def load_model(config: InspectConfig) -> Loaded:
    """A model of timm, transformers or torchvision, at its random start, from a checkpoint, a folder or the hub.

    Raises:
        ValueError, FileNotFoundError: there is no such model or checkpoint, they do not belong together, or a setting
            does not suit the model.
        ConnectionError: the hub cannot be reached and the model is not in its cache.
        ModuleNotFoundError: transformers is not installed.
    """
    torch.manual_seed(config.seed)
    folder = Path(config.model.removeprefix(LOCAL).removeprefix(TRANSFORMERS))
    if config.model.startswith(TRANSFORMERS) or "model_type" in folder_config(folder):
        refuse_settings(config, "models of transformers", "checkpoint", "img_size", "in_chans")
        return of_transformers(config.model.removeprefix(TRANSFORMERS))
    if config.model.startswith(TORCHVISION):
        refuse_settings(config, "models of torchvision", "in_chans")
        return of_torchvision(config.model.removeprefix(TORCHVISION), config)
    name = f"{LOCAL}{folder}" if "architecture" in folder_config(folder) else config.model
    return of_timm(name, config)


def refuse_settings(config: InspectConfig, kind: str, *names: str) -> None:
    """Raise ValueError for a setting that is given and that this kind of model does not read."""
    for name in names:
        if value := getattr(config, name):
            given = "" if value is True else f" {value}"
            raise ValueError(f"--{name.replace('_', '-')}{given} is not for {kind} such as {config.model}")


def of_timm(name: str, config: InspectConfig) -> Loaded:
    """A timm model by name (with a tag: its trained weights, unless a checkpoint is given), by folder or by hub."""
    tagged = "." in name.rpartition(":")[2] and config.checkpoint is None
    pretrained = name.startswith((HUB, LOCAL)) or tagged
    if name.startswith(HUB):
        reach(name.removeprefix(HUB))
    elif tagged and not name.startswith(LOCAL):
        reach(f"timm/{known_model(name)}")
    options = {key: value for key in ("img_size", "in_chans") if (value := getattr(config, key)) is not None}
    if not name.startswith((HUB, LOCAL)):
        known_model(name)
    with loading(config.model, **options):
        model = timm.create_model(name, pretrained=pretrained, **options).eval()
    return prepared(model, config, resolve_model_data_config(model), pretrained)


def of_torchvision(name: str, config: InspectConfig) -> Loaded:
    """A ViT of torchvision, with its published weights or a checkpoint."""
    vit = adapter_of(torchvision_vit(name, pretrained=config.checkpoint is None).eval())
    size = vit.image_size if config.img_size is None else (config.img_size, config.img_size)
    vit.check_size(size, "--img-size")
    vit.set_size(size)
    data = {**vit.data_config(), "input_size": (vit.channels, *size)}
    return prepared(vit.model, config, data, pretrained=True)


def prepared(model: nn.Module, config: InspectConfig, data: dict[str, Any], pretrained: bool) -> Loaded:
    """The model with its checkpoint, and the transform of its ``data`` config at the size and channels it takes."""
    channels, (height, width) = channels_of(model, data["input_size"][0]), data["input_size"][1:]
    if config.img_size is not None:
        height = width = config.img_size
    check_input(model, config, (channels, height, width))
    mean, std = (torch.tensor(matching(data[key], channels))[:, None, None] for key in ("mean", "std"))
    stretched = {"mean": tuple(mean.flatten().tolist()), "std": tuple(std.flatten().tolist())}
    transform = create_transform(**{**data, **stretched, "input_size": (channels, height, width)})
    weights, notes = "Trained weights" if pretrained else "Random start", []
    if config.checkpoint is not None:
        weights = config.checkpoint
        state = read_checkpoint(Path(config.checkpoint))
        try:
            notes = load_checkpoint(model, state)
        except ValueError as error:
            raise ValueError(f"{config.checkpoint}: {error}") from error
    return Loaded(model, Channels(transform, channels), mean, std, weights, notes)


def channels_of(model: nn.Module, default: int) -> int:
    """The channels that the first convolution takes: data configs name those of the published weights."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), default)


def check_input(model: nn.Module, config: InspectConfig, shape: tuple[int, int, int]) -> None:
    """Raise ValueError if the model does not take images of this shape, by a forward pass without numbers."""
    if config.img_size is None and config.in_chans is None:
        return
    embed = getattr(model, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if patch is not None and config.img_size is not None and not getattr(embed, "dynamic_img_pad", False):
        for side in pair(patch):
            checks.divides("patch size", side, "--img-size", config.img_size)
    held = [*model.named_parameters(), *model.named_buffers()]
    try:
        functional_call(
            model, {name: value.to("meta") for name, value in held}, torch.empty(1, *shape, device="meta")
        )
    except NotImplementedError:  # it reads numbers on its way
        return
    except Exception as error:
        size = "x".join(map(str, shape))
        raise ValueError(f"{config.model} does not take images of {size}: {brief(error)}") from error


def matching(values: Sequence[float], channels: int) -> list[float]:
    """Means (or deviations) of so many channels: the model's own, or their average for each."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


class Channels:
    """A transform of pictures of one or three channels."""

    def __init__(self, transform: Callable[[Any], Tensor], channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"pictures have 1 or 3 channels, the model takes {channels}")
        self.transform, self.mode = transform, "L" if channels == 1 else "RGB"

    def __call__(self, picture: Any) -> Tensor:
        return self.transform(picture.convert(self.mode))


def of_transformers(name: str) -> Loaded:
    """A model of Hugging Face's library, from a folder or the hub, with its own image processor."""
    transformers, local = transformers_for(name)
    model = transformers_model(transformers.AutoModel, name, local).eval()
    with loading(name):
        processor = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local)
    mean, std = (torch.tensor(values)[:, None, None] for values in mean_and_std(processor))

    def transform(picture: Any) -> Tensor:
        pixels: Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
        return pixels

    return Loaded(model, transform, mean, std, "Trained weights", [])


def known_model(name: str) -> str:
    """``name`` if timm has that model. Raises ValueError listing this package's models otherwise."""
    if timm.is_model(name):
        return name
    ours = ", ".join(timm.list_models("vit_posattn_*"))
    raise ValueError(f"unknown model {name!r}; known: {ours}, and every model of timm.list_models()")

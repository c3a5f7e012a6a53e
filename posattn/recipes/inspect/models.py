"""The model of `posattn inspect` and the transform of its pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from posattn.recipes.inspect.settings import InspectConfig
from posattn.recipes.kit.sources import HUB, LOCAL, TRANSFORMERS, folder_config, reach, transformers_for
from posattn.vision.models.state_dicts import load_checkpoint, read_checkpoint


class Loaded(NamedTuple):
    """A model in evaluation mode, the transform of its pictures with its mean and deviation, and notes for the user."""

    model: nn.Module
    transform: Callable[[Any], Tensor]
    mean: Tensor
    std: Tensor
    notes: list[str]


def load_model(config: InspectConfig) -> Loaded:
    """A model of timm or transformers, at its random start, from a checkpoint, a folder or the hub.

    Raises:
        ValueError, FileNotFoundError: there is no such model or checkpoint, or they do not belong together.
        ConnectionError: the hub cannot be reached and the model is not in its cache.
        ModuleNotFoundError: transformers is not installed.
    """
    torch.manual_seed(config.seed)
    folder = Path(config.model.removeprefix(LOCAL).removeprefix(TRANSFORMERS))
    if config.model.startswith(TRANSFORMERS) or "model_type" in folder_config(folder):
        return of_transformers(config.model.removeprefix(TRANSFORMERS))
    name = f"{LOCAL}{folder}" if "architecture" in folder_config(folder) else config.model
    return of_timm(name, config)


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
    model = timm.create_model(name, pretrained=pretrained, **options).eval()
    notes = (
        [] if config.checkpoint is None else load_checkpoint(model, read_checkpoint(Path(config.checkpoint)))
    )
    settings = resolve_model_data_config(model)
    channels = settings["input_size"][0]
    if config.img_size is not None:
        settings |= {"input_size": (channels, config.img_size, config.img_size)}
    mean, std = (torch.tensor(matching(settings[key], channels))[:, None, None] for key in ("mean", "std"))
    settings |= {"mean": tuple(mean.flatten().tolist()), "std": tuple(std.flatten().tolist())}
    return Loaded(model, Channels(create_transform(**settings), channels), mean, std, notes)


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
    model = transformers.AutoModel.from_pretrained(name, local_files_only=local).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local)
    mean, std = (torch.tensor(getattr(processor, key))[:, None, None] for key in ("image_mean", "image_std"))
    return Loaded(
        model, lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0], mean, std, []
    )


def known_model(name: str) -> str:
    """``name`` if timm has that model. Raises ValueError listing this package's models otherwise."""
    if timm.is_model(name):
        return name
    ours = ", ".join(timm.list_models("vit_posattn_*"))
    raise ValueError(f"unknown model {name!r}; known: {ours}, and every model of timm.list_models()")

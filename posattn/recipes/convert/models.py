"""The model to convert: of timm, transformers or torchvision, by name or folder, or one that a run has trained."""

import warnings
from pathlib import Path
from typing import Any

import timm
from torch import nn

from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.kit.sources import (
    HUB,
    LOCAL,
    TORCHVISION,
    TRANSFORMERS,
    TrainedModels,
    folder_config,
    loading,
    reach,
    torchvision_vit,
    transformers_for,
    transformers_model,
)
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.layers import attention_of
from posattn.vision.convert.saving import MODEL, check_savable
from posattn.vision.data.images import ImageSet
from posattn.vision.models.state_dicts import adapted, brief, read_checkpoint, resampled, unwrap_checkpoint


def load_model(config: ConvertConfig) -> ViT:
    """The model in evaluation mode, at the requested image size.

    Raises:
        TypeError: its heads cannot be replaced.
        ValueError: it has converted heads already, is not known, does not take the image size, or could not be saved
            once it is converted; or the checkpoint does not fit it.
        FileNotFoundError, ConnectionError, ModuleNotFoundError: it, or the library it needs, is not there.
    """
    vit = adapter_of(with_weights(config).eval())
    if vit.converted() is not None:
        raise already_converted(config)
    if not attention_of(vit.model):
        raise ValueError(
            f"{config.model} has no heads to convert: its attention is positional in every block"
        )
    if config.image_size is not None:
        vit.check_size((config.image_size, config.image_size), "--image-size")
        vit.set_size((config.image_size, config.image_size))
    check_savable(vit.model)
    return vit


def already_converted(config: ConvertConfig) -> ValueError:
    """The error of a model that is converted."""
    return ValueError(f"{config.model} has converted heads already: convert the original model")


def with_weights(config: ConvertConfig) -> nn.Module:
    """The model with its weights."""
    name = config.model
    folder = Path(name.removeprefix(LOCAL).removeprefix(TRANSFORMERS))
    found = folder_config(folder)
    if folder_config(folder / MODEL) or "posattn" in found or "converted" in found:
        raise already_converted(config)
    if "recipe" in found:
        return of_run(folder, config)
    if config.checkpoint is not None and not config.checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {config.checkpoint}")
    if name.startswith(TRANSFORMERS) or "model_type" in found:
        return of_transformers(name.removeprefix(TRANSFORMERS), config)
    if name.startswith(TORCHVISION):
        return of_torchvision(name.removeprefix(TORCHVISION), config)
    if folder.is_dir() and "architecture" not in found:
        raise ValueError(f"{folder} is no run folder, and its config.json is not of timm or transformers")
    return of_timm(f"{LOCAL}{folder}" if folder.is_dir() else name, config)


def of_timm(name: str, config: ConvertConfig) -> nn.Module:
    """A model of timm, with tokens that do not vary by image."""
    if not name.startswith((HUB, LOCAL)) and not timm.is_model(name):
        raise ValueError(f"unknown model {name!r}: see timm.list_models(); there is no such folder either")
    options: dict[str, Any] = {"pretrained": config.checkpoint is None}
    if config.checkpoint is None and not name.startswith(LOCAL):
        reach(name.removeprefix(HUB) if name.startswith(HUB) else hub_of(name))
    with loading(name):
        model = timm.create_model(name, **options)
        if getattr(model, "dynamic_img_size", False):
            model = timm.create_model(name, dynamic_img_size=False, **options)
    return model if config.checkpoint is None else loaded(model, config.checkpoint, config)


def hub_of(name: str) -> str:
    """Where timm has the weights of a model. Raises ValueError if it has none."""
    found = timm.models.get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise ValueError(f"timm has no pretrained weights of {name}: give --checkpoint")
    return found.hf_hub_id or f"timm/{name}"


def loaded(model: nn.Module, checkpoint: Path, config: ConvertConfig) -> nn.Module:
    """The model with the weights of a checkpoint, wrapped or not. Raises ValueError unless it holds all of them.

    Warns of those that are resampled: the checkpoint is of a model of another size.
    """
    weights, _ = unwrap_checkpoint(read_checkpoint(checkpoint), set(model.state_dict()))
    try:
        fitted = adapted(model, weights)
        model.load_state_dict(fitted)
    except Exception as error:  # of the model's own filter too, on weights of another kind
        raise ValueError(f"{checkpoint} does not fit {config.model}: {brief(error)}") from error
    for note in resampled(weights, fitted):
        warnings.warn(f"{checkpoint}: {note}", stacklevel=2)
    return model


def of_transformers(name: str, config: ConvertConfig) -> nn.Module:
    """A model of Hugging Face's library with its head, from a folder or the hub."""
    if config.checkpoint is not None:
        raise ValueError(
            f"--checkpoint {config.checkpoint} is for models of timm: {name} has weights of its own"
        )
    transformers, local = transformers_for(name)
    with loading(name):
        settings = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
        kind = getattr(transformers, (settings.architectures or [""])[0], transformers.AutoModel)
    model: nn.Module = transformers_model(kind, name, local)
    return model


def of_torchvision(name: str, config: ConvertConfig) -> nn.Module:
    """A model of torchvision, with its own weights or a checkpoint."""
    model: nn.Module = torchvision_vit(name, pretrained=config.checkpoint is None)
    return model if config.checkpoint is None else loaded(model, config.checkpoint, config)


def of_run(folder: Path, config: ConvertConfig) -> nn.Module:
    """A model that a recipe trained on images; ``checkpoint`` names which, where there are several."""
    models = TrainedModels(folder)
    wanted = str(config.checkpoint) if config.checkpoint else next(iter(models.names))
    if wanted not in models.names or (config.checkpoint is None and len(models.names) > 1):
        given = config.checkpoint or "none"
        raise ValueError(f"{folder} holds {', '.join(models.names)}: name one as --checkpoint, got {given}")
    data = own_images(models, config)
    model = models.model(wanted, data)
    half, shape = (0.5,) * data.shape[0], data.shape
    taken = {"mean": half, "std": half, "input_size": shape, "crop_pct": models.crop_pct}
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **taken}
    return model


def own_images(models: TrainedModels, config: ConvertConfig) -> ImageSet:
    """The test images of a run, whose shape and classes are those of its models.

    A named set is read from ``--data-dir`` where the pictures to convert with are of that set, too.

    Raises ValueError naming the set where it cannot be read from here.
    """
    name = models.settings["data"]["data"]
    moved = config.images == name and config.data_dir is not None
    changes: dict[str, Any] = {"data_dir": config.data_dir} if moved else {}
    try:
        return models.data(**changes)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{config.model} was trained on {name}, whose images give the size and the classes of its models, and "
            f"cannot be read from this folder: {error}"
        ) from error

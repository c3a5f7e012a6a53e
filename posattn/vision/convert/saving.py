"""Converted models on disk: ``config.json`` says how each head is kept, ``model.safetensors`` holds the weights.

A model of timm has timm's layout, from which timm builds it again: the architecture is ``converted_vit``; its
``model_args`` say which model was converted (``base``) and how each head of each block is kept (``converted``).
A model of transformers has its own config, to which ``posattn`` is added; one of torchvision has the arguments of its
class.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models._builder import load_pretrained, resolve_pretrained_cfg
from torch import Tensor, nn

import posattn.vision.convert.entry  # noqa: F401  (registers the architecture)
from posattn.vision.convert.adapters import torchvision, transformers
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.timm import ARCHITECTURE
from posattn.vision.convert.adapters.vit import CONFIG, WEIGHTS, ViT, pair
from posattn.vision.convert.differences import difference
from posattn.vision.convert.layers import attention_of, count_heads
from posattn.vision.convert.maps import replace_heads
from posattn.vision.convert.replacement import replacement
from posattn.vision.inspect.adapters.find import unwrap
from posattn.vision.models.checkpoint import ungathered
from posattn.vision.models.copies import copied
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.scores import Grid
from posattn.vision.models.state_dicts import brief
from posattn.vision.modes import to_types

MODEL = "model"  # the folder of the model below the run folder of a conversion
LOG_TABLE, MAPS = ".maps.scores.table", ".maps.maps"  # of a table that is trained, and frozen


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write a converted model into a folder that ``load`` reads.

    One of timm's is also read by ``timm.create_model("local-dir:...")``. Maps that were trained are frozen;
    ``torch.compile`` and ``DistributedDataParallel`` are taken off.

    Raises:
        ValueError: the model is not converted, is timm's and was not made by ``timm.create_model``, or is another than
            its config gives; the first difference is named. Nothing is written then.
        TypeError: it is torchvision's with a convolutional stem.
        OSError: the folder cannot be written; weights that are in it stay.
    """
    model, _ = unwrap(model)
    heads_kept(model)
    frozen = freeze_attention(model)
    require_rebuilt(frozen)
    adapter_of(frozen).save(Path(folder))
    return Path(folder)


@torch.no_grad()
def check_savable(model: nn.Module) -> None:
    """Raise, of a model that is to be converted, what ``save`` would raise of the converted one."""
    empty = copied(model).to("meta")
    number, attn = next(iter(attention_of(empty).items()))
    tokens = adapter_of(empty).grid().num_tokens
    changed = replace_heads(
        empty, {number: torch.empty(count_heads(attn), tokens, tokens, device="meta")}, {number: [0]}
    )
    heads_kept(changed)
    require_rebuilt(changed)


def require_rebuilt(model: nn.Module) -> None:
    """Raise the errors of ``save``; the model is frozen and a copy: see ``ViT.save_config``."""
    with TemporaryDirectory() as folder:
        adapter_of(model).save_config(Path(folder))
        try:
            with torch.device("meta"):
                again = blank(Path(folder))
        except Exception as error:
            raise ValueError(f"{type(model).__name__} cannot be built again: {brief(error)}") from error
    shapes = {name: tuple(value.shape) for name, value in loadable(model.state_dict(), again).items()}
    if found := difference(model, again, shapes):
        raise ValueError(f"{type(model).__name__} cannot be built again from its config: {found}")


def load(folder: str | Path, **options: Any) -> nn.Module:
    """The model that ``save`` wrote, in evaluation mode and of the type that it had.

    Args:
        folder: of ``save``, timm's ``save_for_hf``, or the run folder of ``posattn convert``.
        options: of ``timm.create_model``, for models of other libraries ``img_size`` alone; with it, relative maps and
            convolutions are resampled.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its tables do not serve the image size, or nothing in it is converted.
        TypeError: an option that is not known.
    """
    place = Path(folder)
    if (place / MODEL / CONFIG).is_file():
        place = place / MODEL
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no {CONFIG}")
    if "architecture" in read_config(place):
        return timm.create_model(f"local-dir:{place}", pretrained=True, **options).eval()
    return of_library(blank(place), place, **options)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
    return config


def blank(folder: Path) -> nn.Module:
    """The model of a folder with random weights and uniform maps."""
    config = read_config(folder)
    if "architecture" in config:
        return timm.create_model(f"local-dir:{folder}")
    if transformers.RECORD not in config and config.get("library") != torchvision.LIBRARY:
        raise ValueError(f"{folder / CONFIG} is of no converted model")
    model: nn.Module = (transformers if transformers.RECORD in config else torchvision).blank(folder)
    vit = adapter_of(model)
    replace_blank(vit, vit.converted() or {})
    return model


def of_library(model: nn.Module, folder: Path, img_size: Any = None) -> nn.Module:
    """A model of transformers or torchvision with the weights of a folder."""
    model.load_state_dict(typed(load_file(folder / WEIGHTS), model))
    if img_size is not None:
        vit = adapter_of(model)
        refuse_size(vit, pair(img_size))
        vit.set_size(pair(img_size))
    return model.eval()


def heads_kept(model: nn.Module) -> dict[int, dict[int, str]]:
    """How each converted head of each block is kept: table, relative or convolution.

    Raises ValueError if the model is not converted, or nothing is known of how it was made.
    """
    vit = adapter_of(model)
    if vit.path == "blocks" and not hasattr(model, "_model_args"):
        raise ValueError(
            f"{type(model).__name__} was not made by timm.create_model, so it cannot be built again"
        )
    found = vit.converted()
    if found is None:
        raise ValueError(f"{type(model).__name__} has no converted heads; see to_positional")
    return kinds_of(found)


def kinds_of(converted: Mapping[str, Any]) -> dict[int, dict[int, str]]:
    """The same from ``config.json``."""
    return {
        int(number): {int(head): kind for head, kind in heads.items()}
        for number, heads in converted["heads"].items()
    }


def build(
    pretrained: bool,
    base: str | None = None,
    base_args: Mapping[str, Any] | None = None,
    converted: Mapping[str, Any] | None = None,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    pretrained_model_args: Mapping[str, Any] | None = None,
    cache_dir: Any = None,
    **options: Any,
) -> nn.Module:
    """A converted model from its config; with the saved weights where ``pretrained``. For ``converted_vit``."""
    if base is None or converted is None:
        raise ValueError(
            f"{ARCHITECTURE} is built from a saved folder: timm.create_model('local-dir:FOLDER')"
        )
    if options.pop("features_only", False):
        raise ValueError("features_only is not supported by converted models: use forward_intermediates")
    own = {"base", "base_args", "converted"}
    saved = {k: v for k, v in (pretrained_model_args or {}).items() if k not in own}
    model: Any = timm.create_model(base, **{**(base_args or {}), **options, **saved})
    replace_blank(adapter_of(model), converted)
    model._model_args = {"converted": converted}
    model.pretrained_cfg = resolve_pretrained_cfg(
        ARCHITECTURE, pretrained_cfg, pretrained_cfg_overlay
    ).to_dict()
    model.default_cfg = model.pretrained_cfg
    if pretrained:
        channels = model.pretrained_cfg["input_size"][0]
        filter_fn = loadable if "dtype" in options else typed
        load_pretrained(
            model, model.pretrained_cfg, model.num_classes, channels, filter_fn, cache_dir=cache_dir
        )
    adapt(model, saved, options)
    return model


def replace_blank(vit: ViT, converted: Mapping[str, Any]) -> None:
    """Replace the heads, in place, by uniform maps."""
    for number, kinds in kinds_of(converted).items():
        attn, grid = vit.attention(number), Grid(*converted["grid"])
        vit.replace(number, replacement(vit, attn, kinds, None, converted["window"], grid))


def loadable(state: dict[str, Tensor], model: nn.Module) -> Mapping[str, Any]:
    """The state with frozen tables where it has trained ones, and whole maps where it has pruned ones."""
    own, found = model.state_dict(), dict(ungathered(state, model))
    for name in [name for name in found if name.endswith(LOG_TABLE)]:
        frozen = name.removesuffix(LOG_TABLE) + MAPS
        if frozen in own:
            found[frozen] = found.pop(name).float().softmax(-1).to(own[frozen])
    return found


def typed(state: dict[str, Tensor], model: nn.Module) -> Mapping[str, Any]:
    """``loadable``; the model gets the types of the state, its other tensors the first of them."""
    found = loadable(state, model)
    types = {name: value.dtype for name, value in found.items() if value.is_floating_point()}
    model.to(next(iter(types.values()), torch.float32))
    to_types(model, types)
    return found


def adapt(model: Any, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Apply, in place, options that differ from the saved ones."""
    changed = {
        name: value
        for name, value in wanted.items()
        if name in saved and as_saved(value) != as_saved(saved[name])
    }
    if "in_chans" in changed:
        raise ValueError(
            f"in_chans was {saved['in_chans']} when the model was saved, got {changed['in_chans']}"
        )
    if "img_size" in changed:
        refuse_size(adapter_of(model), pair(changed["img_size"]))
        model.set_input_size(img_size=changed["img_size"])
    if {"num_classes", "global_pool"} & set(changed):
        pool = changed.get("global_pool", saved.get("global_pool"))
        model.reset_classifier(changed.get("num_classes", model.num_classes), pool)


def as_saved(value: Any) -> Any:
    """A value as JSON keeps it, sizes as pairs."""
    return list(value) if isinstance(value, tuple) else value


def refuse_size(vit: ViT, size: tuple[int, int]) -> None:
    """Raise ValueError if tables do not serve an image size."""
    grid = tuple(side // patch for side, patch in zip(size, vit.patch_size, strict=True))
    if grid != vit.place().size() and has_tables(vit):
        raise ValueError(
            f"tables are for a grid of {vit.place().size()}, got img_size={size[0] if size[0] == size[1] else size}: "
            "convert at that size, or with relative maps or convolutions"
        )


def has_tables(vit: ViT) -> bool:
    """Whether some head is kept as a table."""
    found = vit.converted()
    return found is not None and any("table" in heads.values() for heads in kinds_of(found).values())

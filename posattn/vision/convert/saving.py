"""Converted models on disk: a folder in timm's layout, from which timm builds the model again.

``config.json`` names ``converted_vit`` as the architecture; its ``model_args`` say which model was converted (``base``)
and how each head of each block is kept (``converted``). ``model.safetensors`` holds the weights.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.layers import to_2tuple
from timm.models._builder import load_pretrained, resolve_pretrained_cfg
from torch import Tensor, nn

import posattn.vision.convert.entry  # noqa: F401  (registers the architecture)
from posattn.vision.convert.attention import Place
from posattn.vision.convert.maps import ARCHITECTURE, converted
from posattn.vision.models.checkpoint import ungathered
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.scores import Grid

CONFIG = "config.json"
LOG_TABLE, MAPS = ".maps.scores.table", ".maps.maps"  # of a table that is trained, and frozen


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write a converted model into a folder that ``load`` and ``timm.create_model("local-dir:...")`` read.

    Maps that were trained are frozen.

    Raises:
        ValueError: the model is not converted, or was not made by ``timm.create_model``.
    """
    heads_kept(model)
    timm.models.save_for_hf(freeze_attention(model), str(folder), safe_serialization=True)
    return Path(folder)


def load(folder: str | Path, **options: Any) -> nn.Module:
    """The model that ``save`` wrote, in evaluation mode.

    Args:
        folder: of ``save`` or timm's ``save_for_hf``.
        options: of ``timm.create_model``; with ``img_size``, relative maps and convolutions are resampled.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its tables do not serve the image size.
    """
    if not (Path(folder) / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no {CONFIG}")
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()


def heads_kept(model: nn.Module) -> dict[int, dict[int, str]]:
    """How each converted head of each block is kept: table, relative or convolution.

    Raises ValueError if the model is not converted, or nothing is known of how it was made.
    """
    args = getattr(model, "_model_args", None)
    if args is None:
        raise ValueError(
            f"{type(model).__name__} was not made by timm.create_model, so it cannot be built again"
        )
    if "converted" not in args:
        raise ValueError(f"{type(model).__name__} has no converted heads; see to_positional")
    return kinds_of(args["converted"])


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
    replace_blank(model, converted)
    model._model_args = {"converted": converted}
    model.pretrained_cfg = resolve_pretrained_cfg(
        ARCHITECTURE, pretrained_cfg, pretrained_cfg_overlay
    ).to_dict()
    model.default_cfg = model.pretrained_cfg
    if pretrained:
        channels = model.pretrained_cfg["input_size"][0]
        load_pretrained(
            model, model.pretrained_cfg, model.num_classes, channels, loadable, cache_dir=cache_dir
        )
    adapt(model, saved, options)
    model._model_args = {}  # timm notes those of this call
    return model


def replace_blank(model: Any, converted_heads: Mapping[str, Any]) -> None:
    """Replace the heads, in place, by uniform maps."""
    grid, place = Grid(*converted_heads["grid"]), Place(model.patch_embed)
    for number, kinds in kinds_of(converted_heads).items():
        attn, window = model.blocks[number].attn, converted_heads["window"]
        model.blocks[number].attn = converted(attn, None, kinds, place, grid, window)


def loadable(state: dict[str, Tensor], model: nn.Module) -> Mapping[str, Any]:
    """The state with frozen tables where it has trained ones, and whole maps where it has pruned ones."""
    own, found = model.state_dict(), dict(ungathered(state, model))
    for name in [name for name in found if name.endswith(LOG_TABLE)]:
        frozen = name.removesuffix(LOG_TABLE) + MAPS
        if frozen in own:
            found[frozen] = found.pop(name).float().softmax(-1).to(own[frozen])
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
        refuse_size(model, changed["img_size"])
        model.set_input_size(img_size=changed["img_size"])
    if {"num_classes", "global_pool"} & set(changed):
        pool = changed.get("global_pool", saved.get("global_pool"))
        model.reset_classifier(changed.get("num_classes", model.num_classes), pool)


def as_saved(value: Any) -> Any:
    """A value as JSON keeps it, sizes as pairs."""
    return list(value) if isinstance(value, tuple) else value


def refuse_size(model: Any, img_size: Any) -> None:
    """Raise ValueError if tables do not serve an image size."""
    changed = copy.deepcopy(model.patch_embed)
    changed.set_input_size(img_size=to_2tuple(img_size))
    if changed.grid_size != model.patch_embed.grid_size and has_tables(model):
        raise ValueError(
            f"tables are for a grid of {model.patch_embed.grid_size}, got img_size={img_size}: "
            "convert at that size, or with relative maps or convolutions"
        )


def has_tables(model: nn.Module) -> bool:
    """Whether some head is kept as a table."""
    kinds: Any = getattr(model, "_model_args", {}).get("converted")
    return kinds is not None and any("table" in heads.values() for heads in kinds_of(kinds).values())

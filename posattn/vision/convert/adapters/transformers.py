"""Hugging Face transformers: ViT, DeiT, ViT-MSN, DINOv2 and DINOv2 with registers, with any head on top.

They are known by their config: the library is imported to load a folder only.
"""

import importlib
import inspect
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from posattn.vision.convert.adapters.attention import OfTransformers, as_timm, stacked
from posattn.vision.convert.adapters.vit import (
    Converted,
    Forward,
    ViT,
    classes_of,
    pair,
    refuse_other_grid,
    share_of,
)
from posattn.vision.inspect.adapters.transformers import mean_and_std

CLASS_TOKENS = {"vit": 1, "vit_msn": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 1}
"""Tokens before the registers and the patches, by model_type."""
LAYERS = ("layers", "encoder.layer")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")  # of every family since version 5.18 of the library
CLASSIFIERS = ("classifier", "cls_classifier")  # the latter in DeiT with a teacher
INTERPOLATIONS = dict(enumerate(("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")))  # Pillow's
RECORD, PROCESSOR = "posattn", "preprocessor_config.json"


class TransformersViT(ViT):
    """A model of the library; ``tower`` is the part of it that maps pixels to tokens."""

    slot, projections, required = "attention", PROJECTIONS, PROJECTIONS
    since = "layers have in transformers 5.18 and later"

    def __init__(self, model: nn.Module, tower: Any, prefix: str) -> None:
        super().__init__(model)
        self.tower, self.config = tower, tower.config
        path = next(path for path in LAYERS if holds(tower, path))
        self.blocks, self.path = tower.get_submodule(path), prefix + path
        self.embed = tower.embeddings.patch_embeddings
        self.class_tokens = CLASS_TOKENS[self.config.model_type]
        self.prefix = self.class_tokens + getattr(self.config, "num_register_tokens", 0)

    @property
    def channels(self) -> int:
        return int(self.embed.num_channels)

    def plain(self, attn: Any) -> Any:
        weight, bias = stacked([attn.q_proj, attn.k_proj, attn.v_proj])
        return as_timm(
            weight, bias, attn.o_proj, attn.num_attention_heads, attn.attention_dropout, attn.training
        )

    def fit(self, layer: nn.Module) -> nn.Module:
        return OfTransformers(layer)

    def forward(self, images: Tensor) -> Forward:
        """Features are the class token: of ``pooler_output`` the weights are often random."""
        found: dict[str, Tensor] = {}

        def keep(_: Any, inputs: Any, output: Any) -> None:
            if not hasattr(output, "last_hidden_state"):
                name = type(self.tower).__name__
                raise TypeError(f"{name} gives no last tokens: it can be converted, not compared or fitted")
            found["tokens"] = output.last_hidden_state

        with self.tower.register_forward_hook(keep):
            output = self.model(images, return_dict=True)
        return Forward(found["tokens"], found["tokens"][:, 0], getattr(output, "logits", None))

    def set_size(self, size: tuple[int, int]) -> None:
        self.check_size(size)
        if self.image_size == size:
            return
        if self.image_size[0] != self.image_size[1]:
            raise ValueError(
                f"{type(self.model).__name__} has a fixed image size, {self.image_size}, as it is not square; "
                f"got {size}"
            )
        if size[0] != size[1]:
            raise ValueError(f"{type(self.model).__name__} takes square images only, got {size}")
        held, old = self.tower.embeddings, self.place().size()
        self.embed.image_size, self.config.image_size = size, size[0]
        if hasattr(held, "image_size"):
            held.image_size = size
        new = self.place().size()
        self.embed.num_patches = new[0] * new[1]
        table = resample_abs_pos_embed(
            held.position_embeddings.detach(), list(new), list(old), num_prefix_tokens=self.class_tokens
        )
        held.position_embeddings = nn.Parameter(table, held.position_embeddings.requires_grad)

    def converted(self) -> Converted | None:
        return getattr(self.model.config, RECORD, None)

    def record(self, converted: Converted) -> None:
        """In the model's own config, which ``save_pretrained`` writes too."""
        model = self.model
        model.config.architectures = [type(model).__name__]
        setattr(model.config, RECORD, {**converted, "options": options_of(model, self.tower)})
        guard(self.tower)

    def save_config(self, folder: Path) -> None:
        """As ``save_pretrained`` does, with the image processor from where the model came from."""
        held = (getattr(self.model, name) for name in CLASSIFIERS if hasattr(self.model, name))
        classes = classes_of(next(held, None))
        if classes not in (None, self.model.config.num_labels):
            self.model.config.num_labels = classes
        self.model.config.save_pretrained(folder)
        processor = Path(self.model.config._name_or_path) / PROCESSOR
        if processor.is_file() and not (folder / PROCESSOR).exists():
            shutil.copy(processor, folder)

    def data_config(self) -> dict[str, Any]:
        """Of the image processor where the model came from.

        Raises ValueError if there is none.
        """
        name = self.model.config._name_or_path
        try:
            transformers = importlib.import_module("transformers")
            processor = transformers.AutoImageProcessor.from_pretrained(
                name, local_files_only=Path(name).is_dir()
            )
            mean, std = mean_and_std(processor)
            return {"mean": mean, "std": std, **resizing_of(processor)}
        except Exception as error:
            raise ValueError(
                f"{name or type(self.model).__name__} has no image processor: {PROCESSOR} gives mean and deviation"
            ) from error


def resizing_of(processor: Any) -> dict[str, Any]:
    """How an image processor resizes and crops pictures, as in timm's data config.

    To both sides at once, whatever the picture's shape (``squash``), or to the shorter one (``center``).
    """
    found = {"interpolation": INTERPOLATIONS.get(processor.resample, "bicubic"), "crop_pct": 1.0}
    size, crop = processor.size or {}, (processor.crop_size if processor.do_center_crop else None) or {}
    shorter = size.get("shortest_edge")
    resized = shorter or size.get("height")
    if not (processor.do_resize and resized):
        return found
    share = share_of(crop.get("height") or resized, resized)
    return found | {"crop_pct": share, "crop_mode": "center" if shorter else "squash"}


def guard(tower: nn.Module) -> None:
    """Let a converted tower, once, raise ValueError for images of another grid, and in exports for a mask.

    DINOv2 takes images of any size, and ViT does by ``interpolate_pos_encoding``. Only here is it known whether a mask
    was given: in exports the library makes one for its layers anyway.
    """
    names = list(inspect.signature(tower.forward).parameters)
    hooks = tower._forward_pre_hooks.values()
    if not any(isinstance(hook, partial) and hook.func is check_input for hook in hooks):
        tower.register_forward_pre_hook(partial(check_input, names), with_kwargs=True)


def check_input(names: list[str], tower: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raise the errors of ``guard``; ``names`` are those of the arguments."""
    given = {**dict(zip(names, args, strict=False)), **options}
    if given.get("attention_mask") is not None and torch.compiler.is_exporting():
        raise ValueError("positional attention takes no mask: export the model without attention_mask")
    if (images := given.get("pixel_values")) is not None:
        embed = tower.embeddings.patch_embeddings
        refuse_other_grid(images.shape[-2:], pair(embed.image_size), pair(embed.patch_size))


def options_of(model: Any, tower: Any) -> dict[str, bool]:
    """The arguments of a model's class that its config does not hold."""
    known = inspect.signature(type(model).__init__).parameters
    options = {
        "add_pooling_layer": getattr(model, "pooler", None) is not None,
        "use_mask_token": getattr(tower.embeddings, "mask_token", None) is not None,
    }
    return {name: value for name, value in options.items() if name in known}


def find(model: nn.Module) -> TransformersViT | None:
    """The adapter of a model of the library whose attention is known; None for any other."""
    if not of_library(model):
        return None
    for path, module in model.named_modules():
        if is_tower(module):
            return TransformersViT(model, module, f"{path}." if path else "")
    return None


def is_tower(module: Any) -> bool:
    """Whether a module maps pixels to tokens, in a way that is known."""
    known = getattr(getattr(module, "config", None), "model_type", None) in CLASS_TOKENS
    has_patches = hasattr(getattr(module, "embeddings", None), "patch_embeddings")
    return known and has_patches and any(holds(module, path) for path in LAYERS)


def holds(tower: nn.Module, path: str) -> bool:
    """Whether a module has a submodule of this path."""
    return path in dict(tower.named_modules())


def of_library(model: nn.Module) -> bool:
    """Whether a model's class comes from transformers."""
    return type(model).__module__.split(".")[0] == "transformers"


def blank(folder: Path) -> Any:
    """The original model, with random weights, of a folder that ``save`` wrote."""
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0])(config, **getattr(config, RECORD)["options"])
    if (vit := find(model)) is not None:
        guard(vit.tower)
    return model

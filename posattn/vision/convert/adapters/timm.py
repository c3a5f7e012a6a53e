"""timm's ViTs: models with ``patch_embed`` and ``blocks``, whose blocks have an ``attn``."""

from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from posattn.vision.convert.adapters.vit import CONFIG, Converted, Forward, ViT, classes_of
from posattn.vision.convert.parts import PROJECTIONS

ARCHITECTURE = "converted_vit"  # timm's name of converted models; see ../entry.py


class TimmViT(ViT):
    """A model of timm, or one built like it."""

    slot, path, projections = "attn", "blocks", PROJECTIONS

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.blocks, self.embed = self.model.blocks, self.model.patch_embed
        self.prefix = getattr(model, "num_prefix_tokens", 0)

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.embed.img_size
        return height, width

    @property
    def channels(self) -> int:
        return int(self.embed.proj.in_channels)

    def forward(self, images: Tensor) -> Forward:
        model = self.model
        tokens = model.forward_features(images)
        features = model.forward_head(tokens, pre_logits=True)
        return Forward(tokens, features, model.forward_head(tokens) if model.num_classes > 0 else None)

    def set_size(self, size: tuple[int, int]) -> None:
        self.check_size(size)
        if self.image_size == size:
            return
        if not hasattr(self.model, "set_input_size"):
            raise ValueError(
                f"{type(self.model).__name__} has a fixed image size, {self.image_size}, not {size}"
            )
        self.model.set_input_size(img_size=size)

    def converted(self) -> Converted | None:
        args: dict[str, Any] = getattr(self.model, "_model_args", {})
        return args.get("converted")

    def record(self, converted: Converted) -> None:
        """In the arguments that timm rebuilds a model from, if timm's factory built the original."""
        model, args = self.model, getattr(self.model, "_model_args", None)
        if args is None:
            return
        if "converted" not in args:
            args = {"base": model.pretrained_cfg["architecture"], "base_args": args}
        model._model_args = {**args, "converted": converted}
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "architecture": ARCHITECTURE}

    def save_config(self, folder: Path) -> None:
        """As timm's ``save_for_hf`` does. ValueError where an option of the model is no text or number."""
        heads = self.model.get_classifier()  # two where the model is distilled
        classes = classes_of(heads[0] if isinstance(heads, tuple) else heads)
        self.model.num_classes = self.model.num_classes if classes is None else classes
        try:
            save_config_for_hf(self.model, str(folder / CONFIG))
        except ValueError as error:
            if "not serializable" not in str(error):
                raise
            raise ValueError(
                f"{type(self.model).__name__} was created with a class or a function, which no file can hold: "
                "create it with names, such as act_layer='relu'"
            ) from error

    def data_config(self) -> dict[str, Any]:
        return resolve_model_data_config(self.model)


def find(model: nn.Module) -> TimmViT | None:
    """The adapter of a model that is built like timm's ViTs, None for any other."""
    blocks = getattr(model, "blocks", None)
    fits = isinstance(blocks, nn.Sequential | nn.ModuleList) and hasattr(model, "patch_embed")
    return TimmViT(model) if fits else None

"""torchvision's ``vit_*``: class token first, ``nn.MultiheadAttention`` in each block."""

import json
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from posattn.vision.convert.adapters.attention import OfTorchvision, as_timm
from posattn.vision.convert.adapters.vit import CONFIG, Converted, Forward, ViT, classes_of, share_of

LIBRARY = "torchvision"
USUAL = {"interpolation": "bilinear", "crop_pct": 0.875}  # of most published weights
# arguments of the class that the model keeps
ARGUMENTS = (
    "image_size",
    "patch_size",
    "hidden_dim",
    "mlp_dim",
    "dropout",
    "attention_dropout",
    "num_classes",
    "representation_size",
)


class TorchvisionViT(ViT):
    """torchvision's VisionTransformer."""

    slot, path, projections, prefix = "self_attention", "encoder.layers", ("out_proj",), 1

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.blocks, self.embed = self.model.encoder.layers, model

    @property
    def channels(self) -> int:
        return next(int(m.in_channels) for m in self.model.conv_proj.modules() if isinstance(m, nn.Conv2d))

    def plain(self, attn: Any) -> Any:
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        return as_timm(weight, bias, attn.out_proj, attn.num_heads, attn.dropout, attn.training)

    def fit(self, layer: nn.Module) -> nn.Module:
        return OfTorchvision(layer)

    def forward(self, images: Tensor) -> Forward:
        """Features are the class token."""
        found: dict[str, Tensor] = {}
        with self.model.encoder.register_forward_hook(lambda _, inputs, output: found.update(tokens=output)):
            logits = self.model(images)
        classifies = any(isinstance(m, nn.Linear) for m in self.model.heads.modules())
        return Forward(found["tokens"], found["tokens"][:, 0], logits if classifies else None)

    def set_size(self, size: tuple[int, int]) -> None:
        self.check_size(size)
        if self.image_size == size:
            return
        if size[0] != size[1]:
            raise ValueError(f"{type(self.model).__name__} takes square images only, got {size}")
        model, old = self.model, self.place().size()
        model.image_size = size[0]
        new, held = self.place().size(), model.encoder.pos_embedding
        table = resample_abs_pos_embed(held.detach(), list(new), list(old), num_prefix_tokens=1)
        model.encoder.pos_embedding = nn.Parameter(table, held.requires_grad)
        model.seq_length = model.encoder.pos_embedding.shape[1]

    def converted(self) -> Converted | None:
        return getattr(self.model, "converted_heads", None)

    def record(self, converted: Converted) -> None:
        """In an attribute of the model, with its number of heads."""
        before = self.converted() or {"num_heads": self.model.encoder.layers[0].num_heads}
        self.model.converted_heads = {**converted, "num_heads": before["num_heads"]}

    def save_config(self, folder: Path) -> None:
        """The arguments of its class, and the class of a module that took the place of its heads."""
        model, heads = self.model, self.model.heads
        if not isinstance(model.conv_proj, nn.Conv2d):
            raise TypeError(
                f"conv_proj ({type(model.conv_proj).__name__}) is not supported: it cannot be built again"
            )
        args = {name: getattr(model, name) for name in ARGUMENTS}
        args |= {"num_layers": len(self.blocks), "num_heads": model.converted_heads["num_heads"]}
        whole = isinstance(heads, nn.Sequential) and len(heads) > 0
        args["num_classes"] = classes_of(heads[-1] if whole else heads) or model.num_classes
        if not whole:
            args["representation_size"] = None
        config = {"library": LIBRARY, "model_args": args, "converted": model.converted_heads}
        config |= {"heads": type(heads).__name__, "pictures": self.pictures()}
        (folder / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")

    def data_config(self) -> dict[str, Any]:
        """As the model's ``pictures`` says, see ``resizing_of``; else as most published weights take pictures."""
        return {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, **self.pictures()}

    def pictures(self) -> dict[str, Any]:
        """How pictures are resized and cropped, which is saved with the model."""
        found: dict[str, Any] = getattr(self.model, "pictures", USUAL)
        return found


def resizing_of(transforms: Any) -> dict[str, Any]:
    """How the transforms of published weights resize and crop pictures, as in timm's data config."""
    share = share_of(transforms.crop_size[0], transforms.resize_size[0])
    return {"interpolation": transforms.interpolation.value, "crop_pct": share}


def find(model: nn.Module) -> TorchvisionViT | None:
    """The adapter of torchvision's VisionTransformer; None for any other."""
    kind = type(model)
    known = (kind.__module__.split(".")[0], kind.__name__) == (LIBRARY, "VisionTransformer")
    return TorchvisionViT(model) if known else None


def blank(folder: Path) -> Any:
    """The original model, with random weights, of a folder that ``save`` wrote."""
    from torchvision.models import VisionTransformer  # heavy, and only needed here

    config = json.loads((folder / CONFIG).read_text("utf-8"))
    model = VisionTransformer(**config["model_args"])
    if config.get("heads") == nn.Linear.__name__:
        model.heads = model.heads.head
    elif config.get("heads") == nn.Identity.__name__:
        model.heads = nn.Identity()
    model.converted_heads, model.pictures = config["converted"], config.get("pictures", USUAL)
    return model

"""The families of docs/inspect-models.md, and what an inspection of each gives. Run to write the table again.

python tests/inspected_models.py > docs/inspect-models.md
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from posattn.vision.inspect.inspection import inspect_model

HEADER = """# Models that can be inspected

Made by `tests/inspected_models.py`, which runs a small random model of each family; a test holds this page to it.
Layers that are not observed are named in `table.attrs["unobserved"]`. A grid is that of the first
and, where it differs, of the last layer; of windows, that of a window. `+ 1`: tokens before the patches.

Maps are those that the model mixes its values by, with two exceptions: talking heads (CaiT, EfficientFormerV2) are
reported before heads are mixed after the softmax, differential attention as two softmaxes per head, the second of all
heads after the first. A layer that changes its maps after the softmax in another way, by a hook on `attn_drop` or in a
subclass, is not observed.

| library | family | model | layers | grid | not measured, and why |
|---|---|---|---|---|---|
"""
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {**SMALL, "hidden_size": 16, "vocab_size": 30, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], int]] = {  # model, config, options, prefix
    "ViT": ("ViTModel", "ViTConfig", SMALL, 1),
    "ViT classifier": ("ViTForImageClassification", "ViTConfig", SMALL, 1),
    "DeiT": ("DeiTModel", "DeiTConfig", SMALL, 2),
    "BEiT": ("BeitModel", "BeitConfig", {**SMALL, "use_relative_position_bias": True}, 1),
    "DINOv2": ("Dinov2Model", "Dinov2Config", SMALL, 1),
    "DINOv2, registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**SMALL, "num_register_tokens": 3},
        4,
    ),
    "DINOv3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**SMALL, "num_register_tokens": 3}, 4),
    "CLIP vision": ("CLIPVisionModel", "CLIPVisionConfig", SMALL, 1),
    "CLIP": ("CLIPModel", "CLIPConfig", {"vision_config": SMALL, "text_config": TEXT}, 1),
    "SigLIP vision": ("SiglipVisionModel", "SiglipVisionConfig", SMALL, 0),
}
DEPTH = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 64}
STAGES = {"depths": (1, 1), "num_heads": (2, 4), "embed_dim": 24}
TIMM: dict[str, tuple[str, dict[str, Any], int]] = {  # family: model, options, pixels
    "ViT": ("vit_tiny_patch16_224", DEPTH, 64),
    "ViT, registers": ("vit_tiny_patch16_224", {**DEPTH, "reg_tokens": 4}, 64),
    "ViT, differential attention": ("vit_tiny_patch16_224", {**DEPTH, "attn_layer": "diff"}, 64),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", DEPTH, 64),
    "BEiT": ("beit_base_patch16_224", DEPTH, 64),
    "EVA-02": ("eva02_tiny_patch14_224", {**DEPTH, "patch_size": 16}, 64),
    "DINOv3": ("vit_small_patch16_dinov3", DEPTH, 64),
    "ViT, relative positions": ("vit_relpos_small_patch16_224", DEPTH, 64),
    "posattn": ("vit_posattn_tiny_patch16_224", DEPTH, 64),
    "CaiT": ("cait_xxs24_224", {**DEPTH, "num_heads": 4}, 64),
    "ConViT": ("convit_tiny", {"img_size": 64, "depth": 12, "embed_dim": 12, "num_heads": 4}, 64),
    "CrossViT": ("crossvit_tiny_240", {}, 240),
    "LeViT": ("levit_128s", {}, 224),
    "EfficientFormer": ("efficientformer_l1", {}, 224),
    "EfficientFormerV2": ("efficientformerv2_s0", {}, 224),
    "PVTv2": ("pvt_v2_b0", {}, 64),
    "MViTv2": ("mvitv2_tiny", {"img_size": 64}, 64),
    "VOLO": ("volo_d1_224", {"img_size": 64}, 64),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 24},
        56,
    ),
    "SwinV2": (
        "swinv2_tiny_window8_256",
        {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 24},
        64,
    ),
    "DaViT": ("davit_tiny", {}, 224),
    "GCViT": ("gcvit_xxtiny", {}, 224),
    "SAM": ("samvit_base_patch16", {**DEPTH, "depth": 2, "window_size": 2, "global_attn_indexes": (1,)}, 64),
    "Hiera": ("hiera_tiny_224", {}, 224),
    "XCiT": ("xcit_nano_12_p16_224", {}, 224),
    "MobileViT": ("mobilevit_xxs", {}, 64),
    "CoaT": ("coat_tiny", {}, 224),
    "EdgeNeXt": ("edgenext_xx_small", {}, 64),
    "MaxViT": ("maxvit_nano_rw_256", {"img_size": 64}, 64),
    "ResNet": ("test_resnet", {}, 64),
}


def row(library: str, family: str, make: Callable[[], nn.Module], size: int) -> str:
    """The line of a family."""
    torch.manual_seed(0)
    with torch.no_grad():
        model = make().eval()
    columns = [library, family, type(model).__name__]
    try:
        inspection = inspect_model(model, torch.randn(2, 3, size, size))
    except (TypeError, ValueError) as error:
        return line(*columns, "none", "", plain(str(error)))
    layouts = inspection.layouts
    grids = dict.fromkeys(describe(layouts[i]) for i in (0, -1))
    reasons = dict.fromkeys(plain(reason) for reason in inspection.table().attrs["unobserved"].values())
    return line(*columns, str(len(layouts)), " … ".join(grids), "; ".join(reasons))


def row_of_timm(family: str) -> str:
    """The line of one of ``TIMM``."""
    name, options, size = TIMM[family]
    return row("timm", family, partial(timm.create_model, name, **options), size)


def describe(layout: Any) -> str:
    """A grid, its prefix, and its keys where they are others."""
    prefix = f" + {layout.queries.prefix}" if layout.queries.prefix else ""
    return f"{layout.queries}{prefix}" + ("" if layout.square else f" to {layout.keys}")


def plain(reason: str) -> str:
    """A reason without the path of the layer."""
    return reason.split(" is not supported: ")[-1].replace("|", "/")


def line(*cells: str) -> str:
    """A line of the table."""
    return f"| {' | '.join(cells)} |"


def rows() -> list[str]:
    """All lines. ImportError where an optional library is missing."""
    import open_clip
    import transformers

    def of_transformers(name: str) -> nn.Module:
        kind, config, options, _ = TRANSFORMERS[name]
        return getattr(transformers, kind)(getattr(transformers, config)(**options))

    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    windows = {**SMALL, "mlp_dim": 48, "output_channels": 16, "window_size": 2, "global_attn_indexes": [1]}
    return [
        *map(row_of_timm, TIMM),
        row("torchvision", "ViT", partial(torchvision.models.VisionTransformer, 64, 16, 2, 2, 16, 24), 64),
        *(row("transformers", family, partial(of_transformers, family), 32) for family in TRANSFORMERS),
        row("transformers", "SAM", lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**windows)), 32),
        row("transformers", "MAE", lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL)), 32),
        row("open_clip", "CLIP", lambda: open_clip.CLIP(16, vision, text), 32),
    ]  # fmt: skip


if __name__ == "__main__":
    print(HEADER + "\n".join(rows()))

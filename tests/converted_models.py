"""The families of docs/convert-models.md, and what a conversion of each gives. Run to write the table again.

python tests/converted_models.py > docs/convert-models.md
"""

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from inspected_models import DEPTH, SMALL, TIMM, TRANSFORMERS, line, plain
from torch import nn

import posattn
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.quality import outputs

HEADER = """# Models that can be converted

Made by `tests/converted_models.py`, which converts heads of a small model of each family as a table, by offset and
as a convolution, saves it, loads it and compares the outputs; a test holds this page to it. `+ 1`: tokens before the
patches, which keep rows and columns of their own.

`posattn.load` gives a model of the class that was converted; one of transformers is built from its own `config.json`.
timm's are also read by `timm.create_model("local-dir:...")`. `load(folder, img_size=...)` gives other image sizes where
no head is a table.

| library | family | model | tokens | not converted, and why |
|---|---|---|---|---|
"""
FIXED = {**DEPTH, "dynamic_img_size": False}
OF_TIMM: dict[str, tuple[str, dict[str, Any], int]] = {
    **TIMM,
    "DINOv3": ("vit_small_patch16_dinov3", FIXED, 64),
    "DINOv2, registers": ("vit_small_patch14_reg4_dinov2", {**DEPTH, "patch_size": 16}, 64),
    "CLIP tower": ("vit_base_patch16_clip_224", DEPTH, 64),
    "SigLIP tower": ("vit_base_patch16_siglip_224", DEPTH, 64),
    "ViT, rotary positions": ("vit_small_patch16_rope_224", DEPTH, 64),
    "ViT, parallel blocks": ("vit_tiny_patch16_224", {**DEPTH, "block_fn": None}, 64),
    "ViT, dynamic image size": ("vit_tiny_patch16_224", {**DEPTH, "dynamic_img_size": True}, 64),
}
OF_TRANSFORMERS = {
    **TRANSFORMERS,
    "ViT-MSN": ("ViTMSNModel", "ViTMSNConfig", SMALL, 1),
    "DINOv2 classifier": ("Dinov2ForImageClassification", "Dinov2Config", {**SMALL, "num_labels": 5}, 1),
}


def row(library: str, family: str, make: Callable[[], nn.Module], size: int) -> str:
    """The line of a family. AssertionError if a converted model is another one after saving and loading."""
    torch.manual_seed(0)
    with torch.no_grad():
        model = make().eval()
    columns = [library, family, type(model).__name__]
    x = torch.randn(2, 3, size, size)
    try:
        kinds = dict(enumerate(("table", "relative", "convolution")[: heads_of(model)]))
        converted = to_positional(model, x, heads={0: kinds}, window=3)
    except (TypeError, ValueError) as error:
        return line(*columns, "none", plain(str(error)))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        posattn.save(converted, folder)
        loaded = posattn.load(folder)
        assert torch.equal(outputs(loaded, x).features, outputs(converted, x).features), family
    grid = adapter_of(model).grid()
    return line(*columns, f"{grid.height}x{grid.width}" + (f" + {grid.prefix}" if grid.prefix else ""), "")


def heads_of(model: nn.Module) -> int:
    """Heads of its first block."""
    attn = adapter_of(model).attention(0)
    return int(getattr(attn, "num_heads", None) or getattr(attn, "num_attention_heads", 3))


def row_of_timm(family: str) -> str:
    """The line of one of ``OF_TIMM``."""
    name, options, size = OF_TIMM[family]
    if options.get("block_fn", False) is None:
        options = {**options, "block_fn": timm.models.vision_transformer.ParallelScalingBlock}
    return row("timm", family, partial(timm.create_model, name, **options), size)


def row_of_torchvision() -> str:
    """The line of torchvision's ViT."""
    return row("torchvision", "ViT", partial(torchvision.models.VisionTransformer, 64, 16, 2, 2, 16, 24), 64)


def row_of_transformers(family: str) -> str:
    """The line of one of ``OF_TRANSFORMERS``. ImportError without the library."""
    import transformers

    kind, config, options, _ = OF_TRANSFORMERS[family]

    def make() -> nn.Module:
        return getattr(transformers, kind)(getattr(transformers, config)(**options))

    return row("transformers", family, make, 32)


def rows() -> list[str]:
    """All lines. ImportError where an optional library is missing."""
    import open_clip
    import transformers

    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    windows = {**SMALL, "mlp_dim": 48, "output_channels": 16, "window_size": 2, "global_attn_indexes": [1]}
    return [
        *map(row_of_timm, OF_TIMM),
        row_of_torchvision(),
        *map(row_of_transformers, OF_TRANSFORMERS),
        row("transformers", "SAM", lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**windows)), 32),
        row("transformers", "MAE", lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL)), 32),
        row("open_clip", "CLIP", lambda: open_clip.CLIP(16, vision, text), 32),
    ]  # fmt: skip


if __name__ == "__main__":
    print(HEADER + "\n".join(rows()))

"""Positional ViTs and images small enough for tests of every option."""

import timm
import torch

from posattn.vision.models.scores import SCORES
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

NAMES = timm.list_models("vit_posattn_*")
KINDS = [(scores, positional) for scores in SCORES for positional in (2, 1)]  # all blocks, half of them
DTYPES = [torch.float32, torch.bfloat16]
TINY = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}
PREFIX = {"class_token": True, "reg_tokens": 2, "global_pool": "token"}
TRANSFORMERS_SIZE = {  # of transformers' ViTs
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}


def make(name: str = "vit_posattn_tiny_patch4_32", **options: object) -> VisionTransformerPosAttn:
    torch.manual_seed(0)
    return timm.create_model(name, **{**TINY, **options}).eval()


def images(
    batch: int = 3, dtype: torch.dtype = torch.float32, size: tuple[int, int] = (8, 8)
) -> torch.Tensor:
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(1)).to(dtype)

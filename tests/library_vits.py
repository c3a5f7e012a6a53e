"""Small ViTs of transformers and torchvision whose attention is far from uniform."""

from typing import Any

import torch
import torchvision
import transformers
from small_vits import TRANSFORMERS_SIZE
from torch import nn

TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], int]] = {  # model, config, options, prefix
    "vit": ("ViTModel", "ViTConfig", {}, 1),
    "vit without biases": ("ViTModel", "ViTConfig", {"qkv_bias": False}, 1),
    "vit classifier": ("ViTForImageClassification", "ViTConfig", {"num_labels": 5}, 1),
    "deit": ("DeiTModel", "DeiTConfig", {}, 2),
    "vit-msn": ("ViTMSNModel", "ViTMSNConfig", {}, 1),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 2}, 1),
    "dinov2 classifier": ("Dinov2ForImageClassification", "Dinov2Config", {"num_labels": 5}, 1),
    "registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"num_register_tokens": 3, "use_swiglu_ffn": True},
        4,
    ),
}
MODELS = [*TRANSFORMERS, "torchvision"]


def make(name: str) -> nn.Module:
    """One of ``MODELS``."""
    torch.manual_seed(0)
    if name == "torchvision":
        model: nn.Module = torchvision.models.VisionTransformer(16, 4, 2, 3, 24, 32, num_classes=5)
    else:
        kind, config, options, _ = TRANSFORMERS[name]
        model = getattr(transformers, kind)(getattr(transformers, config)(**{**TRANSFORMERS_SIZE, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def images(batch: int = 3, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def run(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model itself gives."""
    with torch.no_grad():
        found = model(x)
    if isinstance(found, torch.Tensor):
        return found
    return found.logits if hasattr(found, "logits") else found.last_hidden_state

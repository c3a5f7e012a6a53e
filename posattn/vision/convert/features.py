"""What a converted model is trained to match: the features of the original."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from posattn.vision.convert.adapters.find import adapter_of


class Features(nn.Module):
    """A model up to what it is trained to match: its last tokens, and its pooled features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens, features, _ = adapter_of(self.model).forward(x)
        return tokens, features


def feature_loss(found: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """1 - cosine of the pooled features, plus that of the last tokens, averaged over images and tokens."""
    parts = [
        1 - F.cosine_similarity(f.float(), t.float(), dim=-1).mean()
        for f, t in zip(found, target, strict=True)
    ]
    return torch.stack(parts).sum()

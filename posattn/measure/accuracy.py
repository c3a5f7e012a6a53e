"""Accuracy of a simplified ViT on structured data."""

import torch

from posattn.data.structured import Batch
from posattn.models.simplified import SimplifiedViT


@torch.no_grad()
def accuracy(model: SimplifiedViT, batch: Batch) -> float:
    """The share of samples whose logit has the sign of the label; a logit of 0 is wrong."""
    return (model(batch.patches) * batch.labels > 0).double().mean().item()

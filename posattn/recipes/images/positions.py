"""P Pᵀ of positional encodings before and after training, as the paper's first figure shows it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

THRESHOLD = 0.5  # of the normalised entries that are shown; the paper's value could not be checked


def positional_encodings(model: Any) -> Float[Tensor, "N m"] | None:
    """P of the patches: what positional attention reads, else the embedding added to the patches; None without one."""
    encodings = getattr(getattr(model, "pos_encodings", None), "weight", None)
    encodings = getattr(model, "pos_embed", None) if encodings is None else encodings
    if encodings is None:
        return None
    return encodings.detach().flatten(0, -2)[-model.patch_embed.num_patches :]


def thresholded_gram(encodings: Float[Tensor, "N m"]) -> Float[Tensor, "N N"]:
    """P Pᵀ over its largest absolute entry, so within [−1, 1], with entries of less than ``THRESHOLD`` set to 0."""
    gram = encodings @ encodings.T
    gram = gram / gram.abs().max().clamp(min=torch.finfo(gram.dtype).tiny)
    return gram.where(gram.abs() >= THRESHOLD, 0.0)


def gram_gallery(
    initial: Mapping[str, Any], trained: Mapping[str, Any]
) -> tuple[list[Float[Tensor, "N N"]], list[str]]:
    """``thresholded_gram`` of each model that has encodings, before and after training, with a label for each."""
    found = {
        f"{name}, {when}": positional_encodings(models[name])
        for name in trained
        for when, models in (("initial", initial), ("trained", trained))
    }
    grams = {
        label: thresholded_gram(encodings) for label, encodings in found.items() if encodings is not None
    }
    return list(grams.values()), list(grams)

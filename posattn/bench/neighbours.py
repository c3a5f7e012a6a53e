"""The accuracy of nearest neighbours among labelled pictures: of features, without training a classifier."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Generator, Tensor, nn

from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.quality import features_of, tally
from posattn.vision.convert.recovery import Normalise
from posattn.vision.data.images import ImageSet, transformed

BATCH = 16


def part_of(images: ImageSet, count: int | None) -> ImageSet:
    """So many images of a set at random, the same for each call; all for None or if there are fewer."""
    order = torch.randperm(len(images), generator=Generator().manual_seed(0))
    return images.select(order[:count])


@torch.inference_mode()
def features(model: nn.Module, images: ImageSet, dtype: torch.dtype, title: str) -> Float[Tensor, "n d"]:
    """A model's pooled features of images, resized and cropped by its data config; with a progress bar."""
    vit = adapter_of(model)
    config: Any = vit.data_config()
    normalise = Normalise(config["mean"], config["std"])
    transform = vit.transform()
    batches = (
        normalise(transformed(part, transform)).to(dtype) for part in track(images.images.split(BATCH), title)
    )
    return features_of(model, batches).features


def neighbours_right(
    found: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    bank: Float[Tensor, "m d"],
    bank_labels: Int[Tensor, " m"],
    nearest: int,
) -> Bool[Tensor, " n"]:
    """Whether most of the bank's ``nearest`` images to each, weighted by their cosine, have its label."""
    similar, near = (F.normalize(found, dim=1) @ F.normalize(bank, dim=1).T).topk(nearest, 1)
    return tally(similar.double(), bank_labels[near]) == labels


def accuracy(
    model: nn.Module, bank: ImageSet, tested: ImageSet, nearest: int, dtype: torch.dtype, title: str = ""
) -> Bool[Tensor, " n"]:
    """Whether each tested image is classified right by its nearest neighbours in the bank.

    Raises ValueError for images of other channels than the model takes, or more neighbours than the bank has images.
    """
    if bank.shape[0] != (channels := adapter_of(model).channels):
        raise ValueError(f"{bank.name} has {bank.shape[0]} channels, the model takes {channels}")
    if nearest > len(bank):
        raise ValueError(f"{nearest} nearest neighbours need as many images in the bank, got {len(bank)}")
    held, found = (features(model, images, dtype, title) for images in (bank, tested))
    return neighbours_right(found, tested.labels, held, bank.labels, nearest)

"""A tiny ViT, few images and short trainings, for tests of training."""

from dataclasses import replace

import timm
import torch
from torch import nn

from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import train

SHORT = TrainConfig(
    epochs=3, batch_size=32, warmup_epochs=0.5, precision="float32", record_every=2, checkpoint_every=3
)


RICH = replace(
    SHORT,
    padding=1,
    flip=True,
    policy="trivial",
    mixup=0.2,
    cutmix=1.0,
    ema_decay=0.9,
    clip=1.0,
    accumulation=2,
)


def tiny_vit(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": 1}
    return timm.create_model("vit_tiny_patch16_224", **sizes | {"num_classes": 10} | options)


def few(n: int = 200) -> ImageSet:
    return load_images("digits").select(torch.arange(n))


def losses(*arguments: object, **options: object) -> list[float]:
    return [record.loss for record in train(*arguments, **options)]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)

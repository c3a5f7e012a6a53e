"""A small ViT, small pictures, and a conversion of the one with the others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from posattn.recipes.convert.settings import ConvertConfig

NAME = "vit_tiny_patch16_224"


def draw(folder: Path, count: int, seed: int, size: int = 40) -> None:
    """Pictures of smooth noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures without labels, pictures with labels and splits, and the weights of a model."""
    folder = tmp_path_factory.mktemp("convert")
    draw(folder / "pictures", 50, 0)
    for split, count in (("train", 12), ("test", 8)):
        for label in range(2):
            draw(folder / "labelled" / split / f"class{label}", count, label)
    torch.manual_seed(0)
    model = timm.create_model(NAME, img_size=32, patch_size=8, embed_dim=24, depth=4, num_classes=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    timm.models.save_for_hf(model, folder / "vit", safe_serialization=True)
    return folder


@pytest.fixture
def config_of(place: Path) -> Callable[..., ConvertConfig]:
    """The settings of a small conversion, with changes."""
    config = ConvertConfig(
        f"local-dir:{place / 'vit'}",
        str(place / "pictures"),
        by="block",
        calibration=8,
        ranking=10,
        measured=14,
        nearest=3,
        points=3,
        width=2,
        steps=3,
        random_orders=1,
        batch_size=8,
        rounds=2,
        batch=2,
    )
    return lambda **changes: replace(config, **changes)

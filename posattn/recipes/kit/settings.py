"""Settings that recipes share, and the names of the models on images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isqrt
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from posattn import checks
from posattn.recipes.kit import terms
from posattn.settings import Count
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.training.config import TrainConfig

ORIGINAL, POSITIONAL, RELATIVE, TABLE = "ViT", "positional ViT", "relative", "table"
HYBRID, RESNET = "hybrid", "ResNet"
MIMETIC, CONVIT = "mimetic ViT", "ConViT"


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """The seeds of a recipe that repeats its trainings."""

    seeds: terms.NumSeeds = 3
    seed: terms.FirstSeed = 0

    @property
    def all_seeds(self) -> range:
        """Every seed."""
        return range(self.seed, self.seed + self.seeds)


@dataclass(frozen=True)
class ModelSize:
    """The size of every ViT of a recipe."""

    patch_size: Count = 2
    """Pixels per side of a patch"""
    embed_dim: Count = 64
    """Width"""
    depth: Count = 4
    """Blocks"""
    num_heads: Count = 4
    """Heads per block"""

    def validate(self) -> None:
        """Raise ValueError if the heads do not divide the width."""
        checks.divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)


def vit_options(size: ModelSize) -> dict[str, Any]:
    """The size as timm's ViTs take it."""
    return {
        "patch_size": size.patch_size,
        "embed_dim": size.embed_dim,
        "depth": size.depth,
        "num_heads": size.num_heads,
    }


def convit_options(size: ModelSize) -> dict[str, Any]:
    """The size as timm's ConViT takes it, with gated attention in ten of twelve blocks as published.

    Raises ValueError if the heads, which start on a square of neighbours, are not the square of a number.
    """
    if isqrt(size.num_heads) ** 2 != size.num_heads:
        raise ValueError(f"num_heads must be a square (1, 4, 9, ...) for ConViT, got {size.num_heads}")
    width = size.embed_dim // size.num_heads
    return {**vit_options(size), "embed_dim": width, "local_up_to_layer": size.depth * 10 // 12}


class Architecture(NamedTuple):
    """A timm model and its options."""

    model: str
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    sized: Callable[[ModelSize], dict[str, Any]] | None = vit_options
    """Its options from a size; None for a model that has its own"""
    mimetic: bool = False
    """Whether its attention starts as in ``posattn.vision.models.mimetic``"""
    square: bool = False
    """Whether its gated attention takes any number of patches for that of a square"""


OURS = "vit_posattn_tiny_patch16_224"
ARCHITECTURES = {
    ORIGINAL: Architecture("vit_tiny_patch16_224"),
    POSITIONAL: Architecture(OURS),
    RELATIVE: Architecture(OURS, {"scores": "relative"}),
    TABLE: Architecture(OURS, {"scores": "table"}),
    HYBRID: Architecture("vit_posattn_hybrid_tiny_patch16_224"),
    MIMETIC: Architecture("vit_tiny_patch16_224", mimetic=True),
    CONVIT: Architecture("convit_tiny", sized=convit_options, square=True),
    RESNET: Architecture("resnet10t", {"channels": (32, 64, 128, 256)}, sized=None),
}


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not one of ``ARCHITECTURES``."""
    for name in names:
        checks.known("model", name, ARCHITECTURES)


SMALL = ModelSize(embed_dim=16, depth=1, num_heads=2)  # for smoke runs


@dataclass(frozen=True)
class ImageTraining(Seeds):
    """Models of one size, trained alike on one image set with several seeds: the base of the recipes on images."""

    data: Annotated[MemoryDataConfig, arg(name="")] = field(default_factory=MemoryDataConfig)
    train_images: Count | None = None
    """Train on a random subset of this size, the same for every seed; default: all images"""
    size: Annotated[ModelSize, arg(name="")] = field(default_factory=ModelSize)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=30, batch_size=64, lr=4e-3, warmup_epochs=3.0)
    )

    def validate(self) -> None:
        """Raise ValueError if settings do not go together; recipes add theirs."""

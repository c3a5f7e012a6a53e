"""Settings and names that the recipes on images share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from posattn import checks
from posattn.settings import Count, Seed
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.training.config import TrainConfig

ORIGINAL, POSITIONAL, RELATIVE, TABLE = "ViT", "positional ViT", "relative", "table"
HYBRID, RESNET = "hybrid", "ResNet"


class Architecture(NamedTuple):
    """A timm model and its options."""

    model: str
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    sized: bool = True
    """Whether it takes image size, patch size, width, depth and heads"""


OURS = "vit_posattn_tiny_patch16_224"
ARCHITECTURES = {
    ORIGINAL: Architecture("vit_tiny_patch16_224"),
    POSITIONAL: Architecture(OURS),
    RELATIVE: Architecture(OURS, {"scores": "relative"}),
    TABLE: Architecture(OURS, {"scores": "table"}),
    HYBRID: Architecture("vit_posattn_hybrid_tiny_patch16_224"),
    RESNET: Architecture("resnet10t", {"channels": (32, 64, 128, 256)}, sized=False),
}


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not one of ``ARCHITECTURES``."""
    for name in names:
        checks.known("model", name, ARCHITECTURES)


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


SMALL = ModelSize(embed_dim=16, depth=1, num_heads=2)  # for smoke runs


@dataclass(frozen=True)
class ImageTraining:
    """Models of one size, trained alike on one image set with several seeds: the base of the recipes on images."""

    data: Annotated[MemoryDataConfig, arg(name="")] = field(default_factory=MemoryDataConfig)
    train_images: Count | None = None
    """Train on a random subset of this size, the same for every seed; default: all images"""
    size: Annotated[ModelSize, arg(name="")] = field(default_factory=ModelSize)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=30, batch_size=64, lr=4e-3, warmup_epochs=3.0)
    )
    seeds: Count = 3
    """Number of seeds: each is a training of its own"""
    seed: Seed = 0
    """The first seed"""

    def validate(self) -> None:
        """Raise ValueError if settings do not go together; recipes add theirs."""

    @property
    def all_seeds(self) -> range:
        """Every seed."""
        return range(self.seed, self.seed + self.seeds)

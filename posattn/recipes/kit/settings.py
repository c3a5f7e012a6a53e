"""Settings that the recipes on images share."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from posattn import checks
from posattn.vision.data.config import DataConfig
from posattn.vision.training.config import TrainConfig

ORIGINAL, POSITIONAL, RESNET = "ViT", "positional ViT", "ResNet"


class Architecture(NamedTuple):
    """A timm model, and the options that make it another."""

    model: str
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    sized: bool = True
    """Whether it takes image size, patch size, width, depth and heads"""


OURS = "vit_posattn_tiny_patch16_224"


ARCHITECTURES = {
    ORIGINAL: Architecture("vit_tiny_patch16_224"),
    POSITIONAL: Architecture(OURS),
    "relative": Architecture(OURS, {"scores": "relative"}),
    "table": Architecture(OURS, {"scores": "table"}),
    "hybrid": Architecture("vit_posattn_hybrid_tiny_patch16_224"),
    RESNET: Architecture("resnet10t", {"channels": (32, 64, 128, 256)}, sized=False),
}


@dataclass(frozen=True)
class ImagesConfig(DataConfig):
    """Models of one size, trained alike on one data set."""

    train_images: int | None = None
    """Train on so many images, drawn once; left out, on all"""
    arrangement: Literal["plain", "patches", "pixels"] = "plain"
    """Images as they are, or their patches or pixels moved by one fixed random permutation"""
    shuffle_seed: int = 0
    """Of that permutation"""
    models: tuple[str, ...] = (ORIGINAL, POSITIONAL)
    """Of ViT, positional ViT, relative, table, hybrid, ResNet"""
    patch_size: int = 2
    embed_dim: int = 64
    depth: int = 4
    num_heads: int = 4
    seeds: int = 3
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=30, batch_size=64, lr=4e-3, warmup_epochs=3.0)
    )
    tensorboard: bool = False
    """Write TensorBoard's files beside metrics.jsonl"""
    speed_rounds: int = 30
    """Turns of the interleaved timing of inference"""

    def __post_init__(self) -> None:
        for name in self.models:
            checks.known("model", name, ARCHITECTURES)

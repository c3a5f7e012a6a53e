"""The settings of `posattn run positionality`."""

from dataclasses import dataclass, field, replace

from posattn.recipes import recipe
from posattn.recipes.kit.settings import ImagesConfig
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class PositionalityConfig:
    """ViTs that are trained, inspected and converted head by head."""

    images: ImagesConfig = field(default_factory=ImagesConfig)
    seed: int = 0


@recipe
def positionality(smoke: bool = False) -> PositionalityConfig:
    """Whether a head's positionality tells what its conversion to positional attention costs.

    Claims: not by itself. On digits the heads that are cheap to convert are not the more positional ones: early
    layers are both more positional and dearer.
    Command: posattn run positionality
    Time: six to eight minutes on 2 CPU cores busy with other work
    Expected: rank correlation with the rise of the test loss 0.53 (95 % 0.27 to 0.72), with the fall of the accuracy
    0.34 (0.05 to 0.59); 48 heads of 3 seeds.
    """
    if not smoke:
        return PositionalityConfig()
    small = TrainConfig(epochs=2, padding=1)
    return PositionalityConfig(
        replace(ImagesConfig(), embed_dim=16, depth=2, num_heads=2, seeds=2, train=small)
    )

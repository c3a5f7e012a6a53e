"""The settings of `posattn run score-init`."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit.settings import POSITIONAL, ImagesConfig
from posattn.vision.training.config import TrainConfig

NEAR_ZERO = 0.02  # standard deviation of scores that start near zero


STARTS: dict[str, dict[str, Any]] = {
    "encodings, unit scale": {},
    "encodings, near zero": {"score_std": NEAR_ZERO},
    **{f"encodings, σ_A = {d}": {"score_diagonal": float(d)} for d in (1, 2, 4)},
    "table, unit scale": {"scores": "table"},
    "table, near zero": {"scores": "table", "score_std": NEAR_ZERO},
    "table, σ_A = 2": {"scores": "table", "score_std": NEAR_ZERO, "score_diagonal": 2.0},
    "relative, unit scale": {"scores": "relative"},
    "relative, near zero": {"scores": "relative", "score_std": NEAR_ZERO},
    "relative, σ_A = 2": {"scores": "relative", "score_std": NEAR_ZERO, "score_diagonal": 2.0},
}


@dataclass(frozen=True)
class ScoreInitConfig:
    """Positional ViTs that differ in how their scores start."""

    images: Annotated[ImagesConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: ImagesConfig(
            "fashion-mnist",
            train_images=5_000,
            models=(POSITIONAL,),
            patch_size=4,
            seeds=2,
            train=TrainConfig(epochs=30, batch_size=128, lr=2e-3, warmup_epochs=1.0),
        )
    )
    starts: tuple[str, ...] = tuple(STARTS)
    """Of the names in the table; left out, all"""
    after: tuple[int, ...] = (1, 3, 10, 30)
    """Epochs after which accuracy is measured; the last of them counts"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.starts:
            checks.known("start", name, STARTS)
        for epoch in self.after:
            if checks.positive_int("after", epoch) > self.images.train.epochs:
                raise ValueError(f"after must be at most epochs={self.images.train.epochs}, got {epoch}")


@recipe
def score_init(smoke: bool = False) -> ScoreInitConfig:
    """How scores start: accuracy over training, and how much of the grid can be read from the learned attention.

    Claim: the start decides how soon a positional ViT learns and how much structure its scores show.
    Command: posattn run score-init
    Time: 20 minutes on 2 CPU cores
    Expected (Fashion-MNIST, 5,000 training images, seeds 0 and 1, 2 CPU cores), test accuracy after 3 and 30 epochs:
    encodings at unit scale 75.2 ± 0.9 and 83.1 ± 0.3 %, near zero 72.3 ± 2.4 and 83.2 ± 0.1, σ_A = 2 71.0 ± 4.0 and
    83.8 ± 0.6, σ_A = 4 73.1 ± 2.8 and 83.6 ± 0.6; tables near zero 59.0 ± 5.2 and 82.4 ± 0.7; relative at unit scale
    59.6 ± 3.8 and 83.1 ± 0.2. Grid neighbours told from the scores: 60 % with tables near zero, 9 % with encodings at
    unit scale (chance 8 %).
    """
    if not smoke:
        return ScoreInitConfig()
    train = TrainConfig(epochs=2, batch_size=64, lr=1e-2, warmup_epochs=0.5)
    images = ImagesConfig(models=(POSITIONAL,), embed_dim=16, depth=1, num_heads=2, seeds=2, train=train)
    return ScoreInitConfig(images, ("encodings, unit scale", "table, σ_A = 2"), (1, 2))

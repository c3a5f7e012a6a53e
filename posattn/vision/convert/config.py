"""How a converted model is recovered."""

from dataclasses import dataclass

from posattn import checks


@dataclass(frozen=True)
class RecoveryConfig:
    """How a converted model is trained; the learning rate follows a cosine to 0 after a linear warmup."""

    steps: int = 500
    batch_size: int = 32
    lr: float = 1e-4  # of the weights
    maps_lr: float = 2e-2  # of the maps, which are trained as the logarithms of their entries
    weight_decay: float = 0.0
    warmup: float = 0.1  # share of the steps
    padding: int = 8  # pixels a random crop may move the picture by
    flip: bool = True
    bfloat16: bool = False
    checkpoint_every: int = 100  # steps
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            checks.positive_int(name, getattr(self, name))
        checks.positive("lr", self.lr)  # timm gives the maps a multiple of it
        for name in ("maps_lr", "weight_decay", "padding"):
            checks.finite(name, getattr(self, name), 0.0)
        checks.probability("warmup", self.warmup)

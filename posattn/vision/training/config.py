"""How a classifier is trained on images."""

from dataclasses import dataclass
from typing import get_args

from posattn import checks
from posattn.runs.device import Precision

POLICIES = ("none", "trivial", "rand")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; the learning rate follows a cosine to 0 after a linear warmup.

    ``batch_size`` counts the images of an optimizer step over all processes and accumulated parts, so that a
    run is the same however it is divided.
    """

    epochs: int = 30
    batch_size: int = 128
    accumulation: int = 1  # parts a process divides its share of a batch into, to save memory
    optimizer: str = "adamw"  # any of timm's
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0
    clip: float | None = None  # largest gradient norm
    label_smoothing: float = 0.0
    padding: int = 0  # pixels a random crop may move the image by
    flip: bool = False
    policy: str = "none"  # none, trivial (TrivialAugment) or rand (RandAugment)
    mixup: float = 0.0  # parameter of the Beta distribution, 0: off
    cutmix: float = 0.0
    ema_decay: float | None = None  # moving average of the weights
    precision: Precision = "auto"  # auto: bfloat16 autocast where the device multiplies bfloat16 natively
    compile: bool = False
    record_every: int = 10  # steps between records within an epoch
    checkpoint_every: int = 500  # steps

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "record_every", "checkpoint_every"):
            checks.positive_int(name, getattr(self, name))
        for name in ("lr", "weight_decay", "warmup_epochs", "padding", "mixup", "cutmix"):
            checks.finite(name, getattr(self, name), 0.0)
        checks.probability("label_smoothing", self.label_smoothing)
        if self.optimizer != "adamw":
            from timm.optim import list_optimizers  # settings are read without torch

            checks.known("optimizer", self.optimizer, list_optimizers())
        checks.known("policy", self.policy, POLICIES)
        checks.known("precision", self.precision, get_args(Precision))
        if self.ema_decay is not None:
            checks.probability("ema_decay", self.ema_decay)
        if self.clip is not None:
            checks.finite("clip", self.clip, 0.0)

"""How a classifier is trained on images."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from posattn import checks
from posattn.runs.device import Precision
from posattn.runs.ranks import world_size
from posattn.settings import Count, Natural, NonNegative, Positive, Probability

Policy = Literal["none", "trivial", "rand"]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; the learning rate follows a cosine to 0 after a linear warmup.

    ``batch_size`` counts the images of an optimizer step over all processes and accumulated parts, so that a
    run does not depend on how it is divided.
    """

    epochs: Count = 30
    batch_size: Count = 128
    accumulation: Count = 1  # parts per batch and process, to save memory
    optimizer: str = "adamw"  # any of timm's
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.05
    warmup_epochs: NonNegative = 2.0
    clip: Positive | None = None  # largest gradient norm
    label_smoothing: Probability = 0.0
    padding: Natural = 0  # pixels that a random crop may move the image by
    flip: bool = False
    policy: Policy = "none"  # none, trivial (TrivialAugment) or rand (RandAugment)
    mixup: NonNegative = 0.0  # parameter of the Beta distribution, 0: off
    cutmix: NonNegative = 0.0
    ema_decay: Probability | None = None  # moving average of the weights
    precision: Precision = "auto"  # auto: bfloat16 autocast if the device multiplies bfloat16 natively
    compile: bool = False
    record_every: Count = 10  # steps between records within an epoch
    checkpoint_every: Count = 500  # steps

    def validate(self) -> None:
        """The optimizer must be one of timm's; processes and parts must divide a batch."""
        parts = world_size() * self.accumulation
        checks.divides("processes x accumulation", parts, "batch_size", self.batch_size)
        if self.optimizer != "adamw":
            from timm.optim import list_optimizers  # settings are read without torch

            if self.optimizer not in (known := list_optimizers()):
                like = get_close_matches(self.optimizer, known) or ["adamw", "sgd"]
                raise ValueError(
                    f"optimizer must be one of timm's, such as {', '.join(map(str, like))}, got {self.optimizer!r}"
                )

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
    """How a model is trained; the learning rate follows a cosine over all epochs to 0, with a linear warmup in front.

    ``batch_size`` counts the images of an optimizer step over all processes and accumulated parts, so that a
    run does not depend on how it is divided.
    """

    epochs: Count = 30
    """Passes over the training images"""
    batch_size: Count = 128
    """Images per optimizer step"""
    accumulation: Count = 1
    """Parts per batch and process, to save memory"""
    optimizer: str = "adamw"
    """Any of timm's that a checkpoint can keep"""
    lr: NonNegative = 1e-3
    """Largest learning rate"""
    weight_decay: NonNegative = 0.05
    """Weight decay of the optimizer"""
    warmup_epochs: NonNegative = 2.0
    """Epochs over which the learning rate rises linearly, fewer than `epochs`"""
    clip: Positive | None = None
    """Largest gradient norm; default: no clipping"""
    label_smoothing: Probability = 0.0
    """Share of each label that is spread over all classes"""
    padding: Natural = 0
    """Pixels that a random crop may move the image by"""
    flip: bool = False
    """Mirror half of the images"""
    policy: Policy = "none"
    """Augmentation policy: none, trivial (TrivialAugment) or rand (RandAugment)"""
    mixup: NonNegative = 0.0
    """Parameter of mixup's Beta distribution; 0: off"""
    cutmix: NonNegative = 0.0
    """Parameter of CutMix's Beta distribution; 0: off"""
    mix_prob: Probability = 1.0
    """Share of the batches that are mixed, if `mixup` or `cutmix` is above 0"""
    ema_decay: Probability | None = None
    """Decay of the moving average of the weights; default: no average"""
    precision: Precision = "auto"
    """auto: bfloat16 autocast if the device multiplies bfloat16 natively, else float32"""
    compile: bool = False
    """Compile the model with torch.compile"""
    record_every: Count = 10
    """Steps between records within an epoch"""
    checkpoint_every: Count = 500
    """Steps between checkpoints"""

    def validate(self) -> None:
        """The optimizer must be one of timm's that a checkpoint can keep, processes and parts must divide a batch, and
        the warmup must end before the training."""
        parts = world_size() * self.accumulation
        checks.divides("processes x accumulation", parts, "batch_size", self.batch_size)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs = {self.epochs}, got {self.warmup_epochs}")
        if self.optimizer != "adamw":
            from timm.optim import list_optimizers  # settings are read without torch

            if self.optimizer not in (known := list_optimizers()):
                like = get_close_matches(self.optimizer, known) or ["adamw", "sgd"]
                raise ValueError(
                    f"optimizer must be one of timm's, such as {', '.join(map(str, like))}, got {self.optimizer!r}"
                )
            from posattn.vision.training.resume import check_optimizer

            check_optimizer(self)

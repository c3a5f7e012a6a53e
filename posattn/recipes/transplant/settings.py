"""The settings of `posattn run transplant`."""

from dataclasses import dataclass, field
from pathlib import Path

from posattn.recipes import recipe
from posattn.recipes.kit.settings import SMALL, ImageTraining, ModelSize
from posattn.settings import Count, NonNegative, Positive, Several
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class TargetTraining:
    """Settings of the training on a target that differ from the training on the source."""

    steps: Count = 300
    """Optimizer steps at least: a training is of whole epochs"""
    batch_size: Count = 64
    """Images per step; all if there are fewer"""
    lr: Positive = 2e-3
    """Learning rate"""
    tuning_lr: Positive = 5e-4
    """Learning rate of fine-tuning"""
    warmup_epochs: NonNegative = 0.0
    """Linear warmup"""


@dataclass(frozen=True)
class TransplantConfig(ImageTraining):
    """Maps are learned on the data set and used on the targets."""

    targets: Several[str] = ("fashion-mnist", "digits")
    """Sets that the maps are used on, converted to the size and channels of the source's images"""
    target_dir: Path | None = None
    """Where the files of the targets are"""
    sizes: Several[Count] = (10, 30, 100, 300, 1000)
    """Training images per class; sizes larger than a target's classes are skipped"""
    test_images: Count = 5000
    """Test on a random subset of this size of each target"""
    target: TargetTraining = field(default_factory=TargetTraining)


@recipe
def transplant(smoke: bool = False) -> TransplantConfig:
    """Positional maps learned on one image set, frozen in a new model for another: accuracy over few images.

    Claim: learned positional maps transfer, modestly: with 30 to 1,000 images per class a new model is one to two
    points better with them than from scratch. With 10 no difference is seen.
    Command: posattn run transplant --data-dir FOLDER --targets fashion-mnist
    Time: 48 minutes of CPU time with --jobs 1 on an AMD EPYC with AVX2 only, beside other work; 12 minutes on 2 CPU
    cores with native bfloat16.
    Expected (CIFAR-10 (JPEG copy) to Fashion-MNIST at 32 pixels, seeds 0 to 2, AVX2 only, float32), test accuracy with
    10, 100 and 1,000 images per class: transplanted maps 66.0 ± 2.1, 78.3 ± 1.0 and 79.9 ± 0.8 %; from scratch
    66.1 ± 2.4, 77.0 ± 1.0 and 77.9 ± 0.6; whole model fine-tuned 64.3 ± 1.1, 79.1 ± 0.3 and 81.2 ± 0.4; maps of random
    locality 60.8 ± 2.5, 71.8 ± 1.2 and 72.3 ± 0.8.
    """
    if smoke:
        return TransplantConfig(
            size=SMALL,
            seeds=2,
            train=TrainConfig(epochs=2, batch_size=64, lr=1e-2, warmup_epochs=0.5),
            targets=("digits",),
            sizes=(2, 8),
            test_images=100,
            target=TargetTraining(steps=5, lr=1e-2, warmup_epochs=0.5),
        )
    return TransplantConfig(
        data=MemoryDataConfig("cifar10"),
        train_images=20_000,
        size=ModelSize(patch_size=4),
        train=TrainConfig(epochs=5, batch_size=128, lr=2e-3, warmup_epochs=1.0),
    )

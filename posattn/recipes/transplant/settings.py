"""The settings of `posattn run transplant`."""

from dataclasses import dataclass, field
from pathlib import Path

from posattn.recipes import recipe
from posattn.recipes.kit.settings import POSITIONAL, ImagesConfig
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class TransplantConfig:
    """Where maps are learned, and where they are put to work."""

    source: ImagesConfig = field(
        default_factory=lambda: ImagesConfig(
            "cifar10",
            models=(POSITIONAL,),
            patch_size=4,
            train_images=20_000,
            train=TrainConfig(epochs=5, batch_size=128, lr=2e-3, warmup_epochs=1.0),
        )
    )
    """The set that maps are learned on, and the size of all models; its seeds are those of the curves"""
    targets: tuple[str, ...] = ("fashion-mnist", "digits")
    """Sets that they are put to work on, resized to the source's images and in as many channels"""
    target_dir: Path | None = None
    """Where the files of the targets are"""
    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Training images a class; those that a target does not have are left out"""
    steps: int = 300
    """Of each training on a target; batches hold all of its images where these are fewer"""
    test_images: int = 5000
    """Of a target, drawn once"""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=64, lr=2e-3, warmup_epochs=0.0))
    """On the targets; epochs follow from the steps"""
    tuning_lr: float = 5e-4
    """Learning rate of fine-tuning"""
    seed: int = 0


@recipe
def transplant(smoke: bool = False) -> TransplantConfig:
    """Positional maps learned on one image set, frozen in a new model for another: accuracy over few images.

    Claim: learned positional maps transfer: a new model learns another set from fewer images with them.
    Command: posattn run transplant --source.data-dir FOLDER --targets fashion-mnist
    Time: 12 minutes on 2 CPU cores
    Expected (CIFAR-10 (JPEG copy) to Fashion-MNIST at 32 pixels, seeds 0 to 2, 2 CPU cores), test accuracy with 10, 100
    and 1,000 images a class: transplanted maps 64.7 ± 2.6, 78.3 ± 0.9 and 80.0 ± 0.2 %; from scratch 63.9 ± 0.9,
    76.5 ± 0.2 and 78.0 ± 0.3; whole model fine-tuned 65.5 ± 1.5, 78.8 ± 0.3 and 81.2 ± 0.4; maps of random locality
    60.6 ± 2.0, 71.3 ± 1.3 and 72.8 ± 1.0.
    """
    if not smoke:
        return TransplantConfig()
    train = TrainConfig(epochs=2, batch_size=64, lr=1e-2, warmup_epochs=0.5)
    source = ImagesConfig(models=(POSITIONAL,), embed_dim=16, depth=1, num_heads=2, seeds=2, train=train)
    return TransplantConfig(source, ("digits",), sizes=(2, 8), steps=5, test_images=100, train=train)

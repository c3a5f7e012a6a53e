"""The settings of `posattn run loading`."""

from dataclasses import dataclass, field
from pathlib import Path

from posattn import checks
from posattn.recipes import recipe
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class LoadingConfig:
    """Sets, what is done to their images, and the models that take them."""

    sets: tuple[str, ...] = ("digits", "fashion-mnist")
    """Held in memory: names of `posattn list data`, or paths"""
    data_dir: Path | None = None
    """Where the files of named sets are"""
    pictures: Path | None = None
    """A folder of train or val, each of class folders, decoded by workers at 224 px; left out, none"""
    workers: int | None = None
    """Processes that decode; left out, one a CPU core"""
    embed_dim: int = 128
    depth: int = 6
    num_heads: int = 4
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=128))
    """Batch size and precision; the augmentation is varied"""
    stream_batches: int = 4
    """Batches of pictures that are decoded in a turn, for which workers are started"""
    rounds: int = 10
    """Turns that are counted"""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.positive_int("rounds", self.rounds)
        checks.divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)


@recipe
def loading(smoke: bool = False) -> LoadingConfig:
    """Images a second that loading and augmentation give beside those that training steps take.

    Claim: loading from memory gives at least 5 times what training consumes at CIFAR's size.
    Command: posattn run loading; for CIFAR-10 posattn run loading --sets cifar10 --data-dir DIR
    Time: 6 minutes each (7 rounds) on one CPU core that other work took four fifths of; 1.2 minutes of CPU time
    Expected (seed 0, 1 thread of a CPU, 7 rounds; median and quartiles of the ratio to the positional ViT, with crops,
    mirror images, TrivialAugment and mixup): digits 72 (69 to 81), Fashion-MNIST 116 (106 to 199), CIFAR-10 (JPEG copy)
    95 (80 to 96). One process that decodes ImageNet's pictures at 224 px: 4.4 (4.3 to 5.5). Not measured on a GPU.
    """
    if not smoke:
        return LoadingConfig()
    train = TrainConfig(batch_size=32)
    return LoadingConfig(("digits",), embed_dim=16, depth=1, num_heads=2, train=train, rounds=3)

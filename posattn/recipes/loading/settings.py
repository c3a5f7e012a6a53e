"""The settings of `posattn run loading`."""

from dataclasses import dataclass
from pathlib import Path

from posattn import checks
from posattn.recipes import recipe
from posattn.runs.device import Precision
from posattn.settings import Count, Distincts, Seed, TwoOrMore


@dataclass(frozen=True)
class LoadingConfig:
    """Image sets, their augmentation, and the size of the models that consume them."""

    sets: Distincts[str] = ("digits", "fashion-mnist")
    """Sets held in memory: names of `posattn list data`, or paths"""
    data_dir: Path | None = None
    """Where the files of named sets are"""
    pictures: Path | None = None
    """A folder of train or val with class folders, decoded by workers at 224 px; default: none"""
    workers: Count | None = None
    """Processes that decode; default: one per CPU core"""
    stream_batches: Count = 4
    """Batches of decoded pictures per round, for which workers are started"""
    embed_dim: Count = 128
    """Width of the models"""
    depth: Count = 6
    """Blocks of the models"""
    num_heads: Count = 4
    """Heads per block"""
    batch_size: Count = 128
    """Images per batch"""
    precision: Precision = "auto"
    """Of the training steps; auto: bfloat16 autocast if the device multiplies bfloat16 natively, else float32"""
    rounds: TwoOrMore = 10
    """Timed rounds, after one warm-up"""
    device: str = "cpu"
    """Device for augmentation and training"""
    seed: Seed = 0
    """Seed of the models and of the order of the images"""

    def validate(self) -> None:
        """Raise ValueError if the heads do not divide the width or there is nothing to load."""
        checks.divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)
        if not self.sets and self.pictures is None:
            raise ValueError("sets must not be empty without --pictures")


@recipe
def loading(smoke: bool = False) -> LoadingConfig:
    """Images per second from loading and augmentation, compared with those that training steps consume.

    Claim: loading from memory gives at least 5 times what training consumes at CIFAR's size.
    Command: posattn run loading; for CIFAR-10 posattn run loading --sets cifar10 --data-dir DIR
    Time: 1.8 minutes of CPU time for both (7 rounds, float32, AMD EPYC).
    On CPUs with AVX2 only: unknown
    Expected (seed 0, 1 thread of an AMD EPYC, float32, 7 rounds; median and quartiles of the ratio to the positional
    ViT, with crops, mirror images, TrivialAugment and mixup): digits 282 (280 to 284), Fashion-MNIST 449 (439 to 449),
    CIFAR-10 (JPEG copy) 257 (248 to 264). One process that decodes ImageNet's pictures at 224 px: 6.2 (6.2 to 6.2). Not
    measured on a GPU.
    """
    if not smoke:
        return LoadingConfig()
    return LoadingConfig(("digits",), embed_dim=16, depth=1, num_heads=2, batch_size=32, rounds=3)

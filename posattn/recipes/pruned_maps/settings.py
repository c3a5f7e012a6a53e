"""The settings of `posattn run pruned-maps`."""

from dataclasses import dataclass

from posattn.recipes import recipe
from posattn.recipes.kit.settings import SMALL, ImageTraining, ModelSize
from posattn.settings import Count, Several
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class PrunedMapsConfig(ImageTraining):
    """Positional ViTs of several seeds, pruned."""

    keeps: Several[Count] = (1, 2, 4, 8, 16, 32, 64)
    """k, entries kept of every row; at most N, the number of patches"""


@recipe
def pruned_maps(smoke: bool = False) -> PrunedMapsConfig:
    """Mass of the largest entries of learned positional maps, layer by layer, and accuracy when only they are kept.

    Claim: learned positional maps are concentrated: few entries of a row are enough.
    Command: posattn run pruned-maps
    Time: 19 minutes on 2 cores shared with a dozen other processes; 4 minutes of CPU time.
    On CPUs with AVX2 only: 260 s of CPU time (AMD EPYC, beside other work); 96.6 ± 0.4 % with whole maps, 96.6 ± 0.2 %
    with 8 entries per row, 96.2 ± 0.3 % with one.
    Expected (seeds 0-2, 2 CPU cores, digits, N = 64): the largest entry alone has a mass of 0.93, 0.96, 0.98 and
    0.99 in layers 1 to 4, the 8 largest 0.97 or more; test accuracy 96.5 ± 0.3 % with whole maps as with 8 entries
    per row, 96.1 ± 0.3 % with one.
    """
    if not smoke:
        return PrunedMapsConfig(size=ModelSize(patch_size=1))
    train = TrainConfig(epochs=4, batch_size=64, lr=1e-2, warmup_epochs=0.5)
    return PrunedMapsConfig(size=SMALL, seeds=2, train=train, keeps=(1, 4, 16))

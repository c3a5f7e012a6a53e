"""The settings of `posattn run jigsaw`."""

from dataclasses import dataclass

from posattn.recipes import recipe
from posattn.recipes.kit.settings import ImageTraining, ModelSize
from posattn.settings import Count, Natural
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class JigsawConfig(ImageTraining):
    """Positional ViTs with free tables of scores and no position embedding; each seed has its own permutation."""

    plain_seeds: Natural = 1
    """Number of seeds of training on unshuffled images"""
    rounds: Natural = 400
    """Rounds of regrowing a part of the layout"""
    tile: Count = 2
    """Side of the neighbourhoods, in patches, that patch association is measured on"""
    pictures: Count = 6
    """Test images shown"""


@recipe
def jigsaw(smoke: bool = False) -> JigsawConfig:
    """The layout of images, recovered from the positional scores of a model trained on shuffled patches.

    Claim: the grid can be recovered from the scores of a positional ViT that never saw where its patches belong.
    Command: posattn run jigsaw --data-dir FOLDER
    Time: 3 minutes on 2 CPU cores.
    On CPUs with AVX2 only: unknown
    Expected (CIFAR-10 (JPEG copy), shuffled seeds 0 to 2, plain seed 0, 2 CPU cores): 100.0 ± 0.0 % of neighbouring
    pairs put back (chance 5.6 %, from noise 3.9 %, by embedding and assignment 57.1 ± 3.9 %), recall 80.4 ± 5.6 %;
    plain training 100.0 % and 75.4 %; patch association with 2x2 neighbourhoods 0.603 shuffled and 0.609 plain for the
    likeness of profiles (chance 0.286, as a profile is most like itself), 0.066 and 0.067 for the attention maps; test
    accuracy 48.2 % shuffled, 48.0 % plain. Fashion-MNIST: at most 56 % of pairs in trials of one seed each.
    """
    if smoke:
        train = TrainConfig(epochs=4, batch_size=64, lr=1e-2, warmup_epochs=0.5)
        size = ModelSize(embed_dim=16, depth=1, num_heads=4)
        return JigsawConfig(size=size, seeds=2, train=train, rounds=5, pictures=4)
    return JigsawConfig(
        data=MemoryDataConfig("cifar10"),
        train_images=40_000,
        size=ModelSize(patch_size=4, num_heads=8),
        train=TrainConfig(epochs=2, batch_size=64, lr=3e-3, warmup_epochs=0.2, clip=1.0, record_every=50),
    )

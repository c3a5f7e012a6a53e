"""The settings of `posattn run images` and of the same comparison on other sets."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from tyro.conf import arg

from posattn.recipes import recipe
from posattn.recipes.kit.settings import (
    HYBRID,
    ORIGINAL,
    POSITIONAL,
    RELATIVE,
    ImageTraining,
    ModelSize,
    check_names,
)
from posattn.settings import Repeats, Several
from posattn.vision.data.config import DataConfig
from posattn.vision.training.config import TrainConfig

MODELS = (ORIGINAL, POSITIONAL, RELATIVE, HYBRID)


@dataclass(frozen=True)
class ImagesConfig(ImageTraining):
    """Models of one size, trained alike on one set and compared."""

    data: Annotated[DataConfig, arg(name="")] = field(default_factory=DataConfig)
    models: Several[str] = (ORIGINAL, POSITIONAL)
    """ViT, positional ViT, relative, table, hybrid, ResNet; `posattn merge` pools runs of different ones"""
    tensorboard: bool = False
    """Write TensorBoard files in addition to metrics.jsonl"""
    speed_rounds: Repeats = 30
    """Timed, interleaved rounds of inference, after one warm-up"""

    def validate(self) -> None:
        """ValueError where a model is not known."""
        super().validate()
        check_names(self.models)


# three seeds of every model in 13 to 19 minutes on 2 CPU cores
ON_A_CPU = ImagesConfig(
    models=MODELS,
    train_images=20_000,
    size=ModelSize(patch_size=4),
    train=TrainConfig(epochs=6, batch_size=128, lr=2e-3, warmup_epochs=1.0),
)

# ViT-Tiny on 32 x 32 pixels as small ViTs are usually trained; for a GPU
ON_A_GPU = ImagesConfig(
    models=MODELS,
    size=ModelSize(patch_size=4, embed_dim=192, depth=12, num_heads=3),
    train=TrainConfig(
        epochs=100,
        batch_size=512,
        lr=1e-3,
        warmup_epochs=5.0,
        label_smoothing=0.1,
        padding=4,
        flip=True,
        policy="trivial",
        mixup=0.8,
        cutmix=1.0,
    ),
)


@recipe
def images(smoke: bool = False) -> ImagesConfig:
    """Digits: the ViT, positional attention (encodings, relative) and a hybrid, trained alike.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images
    Time: 2 minutes on 2 CPU cores with native bfloat16, measured with every model in float32
    On CPUs with AVX2 only: unknown
    Expected (30 epochs, seeds 0 to 2, 2 CPU cores, one thread each): ViT 94.2 ± 1.7 %; positional ViT 97.9 ± 0.2 %, the
    ViT's accuracy in 0.15 of its time; relative 97.4 ± 0.9 %; hybrid 96.9 ± 1.0 %.
    """
    return sized(ImagesConfig(models=MODELS), smoke)


@recipe
def images_fashion_mnist(smoke: bool = False) -> ImagesConfig:
    """Fashion-MNIST: the ViT, positional attention (encodings, relative) and a hybrid, trained alike.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images-fashion-mnist
    Time: 13 minutes on 2 CPU cores with native bfloat16, measured with the content-based models in float32
    On CPUs with AVX2 only: unknown
    Expected (20,000 training images, 6 epochs, seeds 0 to 2, 2 CPU cores, one thread each): ViT 83.5 ± 0.1 % in 144 s;
    positional ViT 86.0 ± 0.5 %; relative 83.0 ± 0.6 %; hybrid 84.2 ± 0.2 %.
    """
    return sized(replace(ON_A_CPU, data=DataConfig("fashion-mnist")), smoke)


@recipe
def images_cifar10(smoke: bool = False) -> ImagesConfig:
    """CIFAR-10 at a size for CPUs: the ViT, positional attention (encodings, relative) and a hybrid, trained alike.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images-cifar10 --data-dir FOLDER
    Time: 19 minutes on 2 CPU cores with native bfloat16, measured with the content-based models in float32
    On CPUs with AVX2 only: unknown
    Expected (CIFAR-10 (JPEG copy), 20,000 training images, 6 epochs, seeds 0 to 2, 2 CPU cores, one thread each): ViT
    51.6 ± 0.7 % in 201 s; positional ViT 55.6 ± 1.4 %; relative 50.0 ± 1.2 %;
    hybrid 54.1 ± 1.1 %.
    """
    return sized(replace(ON_A_CPU, data=DataConfig("cifar10")), smoke)


@recipe
def images_cifar10_long(smoke: bool = False) -> ImagesConfig:
    """CIFAR-10 for 100 epochs on a GPU, at ViT-Tiny's size with patches of 4: the four models of the other sets.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images-cifar10-long --data-dir FOLDER --jobs 1
    Time: unknown
    Expected: not run yet (needs a GPU); published small ViTs of this size reach 91 to 93.6 %.
    """
    return sized(replace(ON_A_GPU, data=DataConfig("cifar10")), smoke)


@recipe
def images_cifar100(smoke: bool = False) -> ImagesConfig:
    """CIFAR-100 for 100 epochs on a GPU, at ViT-Tiny's size with patches of 4: the four models of the other sets.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images-cifar100 --data-dir FOLDER --jobs 1
    Time: unknown
    Expected: not run yet.
    """
    return sized(replace(ON_A_GPU, data=DataConfig("cifar100")), smoke)


@recipe
def images_svhn(smoke: bool = False) -> ImagesConfig:
    """SVHN for 100 epochs on a GPU, at ViT-Tiny's size with patches of 4: the four models of the other sets.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images-svhn --data-dir FOLDER --jobs 1
    Time: unknown
    Expected: not run yet (needs the data).
    """
    return sized(replace(ON_A_GPU, data=DataConfig("svhn"), train=replace(ON_A_GPU.train, flip=False)), smoke)


@recipe
def images_imagenet(smoke: bool = False) -> ImagesConfig:
    """ImageNet for 300 epochs on GPUs, at ViT-Tiny's size with patches of 16: the four models of the other sets.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images-imagenet --data-dir FOLDER --jobs 1
    Time: unknown
    Expected: not run yet (needs the data); the paper reports 71.9 % for the original and 68.9 % for the
    positional ViT.
    """
    size = replace(ON_A_GPU.size, patch_size=16)
    train = replace(ON_A_GPU.train, epochs=300, batch_size=1024, padding=0, flip=False)
    return sized(replace(ON_A_GPU, data=DataConfig("imagenet"), size=size, seeds=1, train=train), smoke)


def sized(config: ImagesConfig, smoke: bool) -> ImagesConfig:
    """The recipe's config, or with ``smoke`` the same comparison on digits, which takes seconds."""
    if not smoke:
        return config
    return replace(
        config,
        data=DataConfig(),
        train_images=None,
        size=ModelSize(embed_dim=16, depth=2, num_heads=2),
        seeds=2,
        train=replace(config.train, epochs=2, batch_size=64, padding=min(1, config.train.padding)),
        speed_rounds=3,
    )

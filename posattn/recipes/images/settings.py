"""The settings of `posattn run images` and of the same comparison on other sets."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from posattn.recipes import recipe
from posattn.recipes.kit.settings import (
    CONVIT,
    HYBRID,
    MIMETIC,
    ORIGINAL,
    POSITIONAL,
    RELATIVE,
    ImageTraining,
    ModelSize,
    check_names,
)
from posattn.settings import Several, TwoOrMore
from posattn.vision.data.config import DataConfig
from posattn.vision.training.config import TrainConfig

ALL = (ORIGINAL, POSITIONAL, RELATIVE, HYBRID)
TABLE = (ORIGINAL, POSITIONAL, HYBRID, MIMETIC, CONVIT)


@dataclass(frozen=True)
class ImagesConfig(ImageTraining):
    """Models of one size, trained alike on one set and compared."""

    data: Annotated[DataConfig, arg(name="")] = field(default_factory=DataConfig)
    models: Several[str] = (ORIGINAL, POSITIONAL)
    """ViT, positional ViT, relative, table, hybrid, mimetic ViT, ConViT, ResNet; `posattn merge` pools runs"""
    tensorboard: bool = False
    """Write TensorBoard files in addition to metrics.jsonl"""
    speed_rounds: TwoOrMore = 30
    """Timed, interleaved rounds of inference, after one warm-up"""

    def validate(self) -> None:
        """ValueError where a model is not known."""
        super().validate()
        check_names(self.models)


@recipe
def images(smoke: bool = False) -> ImagesConfig:
    """Digits: the ViT, positional attention (encodings, relative) and a hybrid, trained alike.

    Claim: positional attention matches the original's accuracy in a fraction of its training time; a hybrid exceeds it.
    Command: posattn run images
    Time: 2 minutes on 2 CPU cores with native bfloat16, measured with every model in float32.
    On CPUs with AVX2 only: 300 s of CPU time (AMD EPYC, --jobs 1, beside other work); the same accuracies, but for the
    ViT's, 93.9 ± 1.7 %, which the positional ViT has in 0.12 of its time.
    Expected (30 epochs, seeds 0 to 2, 2 CPU cores, one thread each): ViT 94.2 ± 1.7 %; positional ViT 97.9 ± 0.2 %, the
    ViT's accuracy in 0.15 of its time; relative 97.4 ± 0.9 %; hybrid 96.9 ± 1.0 %.
    """
    return sized(ImagesConfig(models=ALL), smoke)


@recipe
def images_fashion_mnist(smoke: bool = False) -> ImagesConfig:
    """Fashion-MNIST: the ViT, positional attention (encodings, relative) and a hybrid, trained alike.

    Claim: positional attention has the original's accuracy in less than half of its training time, and passes it.
    Command: posattn run images-fashion-mnist
    Time: 43 minutes of CPU time with --jobs 1 on an AMD EPYC with AVX2 only, 20 minutes with native bfloat16, beside
    other work.
    Expected (20,000 training images, 6 epochs, seeds 0 to 2, AVX2 only, float32): ViT 83.6 ± 0.2 % in 232 s of CPU
    time; positional ViT 85.7 ± 0.3 %, the ViT's accuracy in 0.44 of its time; hybrid 84.3 ± 0.4 %; relative
    82.8 ± 0.4 %. With native bfloat16: ViT 83.5 ± 0.4 % in 103 s; positional ViT 85.8 ± 0.2 %, the ViT's accuracy in
    0.46 of its time; hybrid 84.5 ± 0.3 %; relative 83.0 ± 0.3 %.
    """
    return sized(
        ImagesConfig(
            data=DataConfig("fashion-mnist"),
            models=ALL,
            train_images=20_000,
            size=ModelSize(patch_size=4),
            train=TrainConfig(epochs=6, batch_size=128, lr=2e-3, warmup_epochs=1.0),
        ),
        smoke,
    )


# the plain recipe of the table, the same for every model; docs/results/README.md says what was tried for the ViT
PLAIN = TrainConfig(
    epochs=30,
    batch_size=128,
    lr=1e-3,
    weight_decay=0.05,
    warmup_epochs=5.0,
    label_smoothing=0.1,
    padding=4,
    flip=True,
    compile=True,
)
CPU_SIZE = ModelSize(patch_size=4, embed_dim=128, depth=6, num_heads=4)

# for GPUs; epochs, warmup, batch, rate and share of mixed batches as in the code of arXiv 2112.13492, whose small ViT
# reaches 93.6 % on CIFAR-10; that has stochastic depth, random erasing and repeated augmentation in addition
STRONG = replace(PLAIN, epochs=100, warmup_epochs=10.0, policy="trivial", mixup=0.8, cutmix=1.0, mix_prob=0.5)
VIT_TINY = ModelSize(patch_size=4, embed_dim=192, depth=12, num_heads=3)


class Budget(NamedTuple):
    """A row of the table: a set, its budget, and what the header says of it."""

    title: str
    data: str
    train: TrainConfig = PLAIN
    size: ModelSize = CPU_SIZE
    seeds: int = 3
    models: tuple[str, ...] = TABLE
    time: str = "unknown"
    expected: str = "not run yet"

    @property
    def config(self) -> ImagesConfig:
        """The settings."""
        data = DataConfig(self.data)
        return ImagesConfig(data=data, train=self.train, size=self.size, seeds=self.seeds, models=self.models)

    def header(self, name: str) -> str:
        """The recipe's docstring."""
        count = f"{self.train.epochs} epochs of width {self.size.embed_dim}, depth {self.size.depth}"
        return (
            f"{self.title}, {count}, patches of {self.size.patch_size}: {', '.join(self.models)}.\n\n"
            "Claim: positional attention does about as well as the original.\n"
            f"Command: posattn run {name} --data-dir FOLDER\n"
            f"Time: {self.time}\nExpected: {self.expected}\n"
        )


def on_gpu(title: str, data: str, **options: Any) -> Budget:
    """The set at ViT-Tiny's size for 100 epochs; without ConViT, whose heads must be a square."""
    models = tuple(name for name in TABLE if name != CONVIT)
    settings = {"train": STRONG, "size": VIT_TINY, "models": models, **options}
    return Budget(title, data, **settings)


BUDGETS = {
    "images-cifar10": Budget(
        "CIFAR-10",
        "cifar10",
        time="120 minutes (ViT) and 85 (positional ViT) of CPU time per training, one thread of an AMD EPYC with "
        "native bfloat16; others unknown. On CPUs with AVX2 only: unknown",
        expected="seeds 0 to 2, bfloat16: ViT 77.3 ± 0.3 %, positional ViT 79.0 ± 0.2 %; other models not run yet",
    ),
    "images-cifar10-long": on_gpu(
        "CIFAR-10",
        "cifar10",
        time="11 minutes for the ViT and the positional ViT at once on an NVIDIA H100; others unknown",
        expected="seed 0, bfloat16: ViT 83.3 %, positional ViT 85.3 %; other models and seeds not run yet; published "
        "small ViTs: 91.4 to 93.6 %",
    ),
    "images-cifar100": Budget(
        "CIFAR-100",
        "cifar100",
        time="123 minutes (ViT) and 91 (positional ViT) of CPU time per training, one thread of an AMD EPYC with "
        "native bfloat16; others unknown. On CPUs with AVX2 only: unknown",
        expected="seed 0, bfloat16: ViT 54.3 %, positional ViT 58.7 %; other models and seeds not run yet",
    ),
    "images-cifar100-long": on_gpu(
        "CIFAR-100", "cifar100", expected="not run yet; published small ViTs: 69.8 %"
    ),
    "images-tiny-imagenet": Budget(
        "Tiny-ImageNet at 32 px",
        "tiny-imagenet",
        replace(PLAIN, epochs=15),
        time="97 minutes (ViT) and 72 (positional ViT) of CPU time per training, one thread of an AMD EPYC with "
        "native bfloat16; others unknown. On CPUs with AVX2 only: unknown",
        expected="seeds 0 and 1, bfloat16: ViT 27.7 ± 0.4 %, positional ViT 28.2 ± 0.2 %; other models not run yet",
    ),
    "images-tiny-imagenet-long": on_gpu("Tiny-ImageNet at 32 px", "tiny-imagenet"),
    "images-imagenette": Budget(
        "Imagenette at 64 px",
        "imagenette",
        replace(PLAIN, epochs=60),
        replace(CPU_SIZE, patch_size=8),
        time="100 minutes (ViT), 75 (positional ViT), 84 (hybrid), 102 (mimetic ViT) and 103 (ConViT) of CPU time per "
        "training, one thread of an AMD EPYC with AVX2 only",
        expected="seeds 0 to 2, float32: ViT 71.6 ± 0.8 %, positional ViT 75.3 ± 0.2 %, hybrid 75.1 ± 0.7 %; seed 0: "
        "mimetic ViT 71.1 %, ConViT 75.3 %",
    ),
    "images-svhn": Budget("SVHN", "svhn", replace(PLAIN, flip=False)),
    "images-svhn-long": on_gpu("SVHN", "svhn", train=replace(STRONG, flip=False)),
    "images-imagenet": on_gpu(
        "ImageNet",
        "imagenet",
        train=replace(STRONG, epochs=300, warmup_epochs=5.0, batch_size=1024, padding=0, flip=False),
        size=replace(VIT_TINY, patch_size=16),
        seeds=1,
        expected="not run yet; the paper reports 71.9 % for the original and 68.9 % for the positional ViT",
    ),
}


def register(name: str, budget: Budget) -> None:
    """Make a recipe of a budget."""

    def config(smoke: bool = False) -> ImagesConfig:
        return sized(budget.config, smoke)

    config.__name__, config.__doc__ = name.replace("-", "_"), budget.header(name)
    recipe(config)


def sized(config: ImagesConfig, smoke: bool) -> ImagesConfig:
    """The recipe's config, or with ``smoke`` the same comparison on digits, which takes seconds."""
    if not smoke:
        return config
    return replace(
        config,
        data=DataConfig(),
        train_images=None,
        size=ModelSize(embed_dim=16, depth=2, num_heads=4),
        seeds=2,
        train=replace(
            config.train,
            epochs=2,
            batch_size=64,
            warmup_epochs=0.5,
            padding=min(1, config.train.padding),
            compile=False,
        ),
        speed_rounds=3,
    )


for _name, _budget in BUDGETS.items():
    register(_name, _budget)

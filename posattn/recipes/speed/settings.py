"""The settings of `posattn run speed`."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from posattn.recipes import recipe
from posattn.settings import Count, Pixels, Seed, Several, TwoOrMore

INFERENCE, TRAINING = "inference", "training"


class Contender(NamedTuple):
    """A timm model and its options."""

    model: str
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    modes: tuple[str, ...] = (INFERENCE, TRAINING)
    keep: int | None = None
    patches: bool = True
    """Whether its patch size can be chosen in timm, as needed at 32 px"""


OURS = "vit_posattn_tiny_patch16_224"


CONTENDERS = {
    "vit": Contender("vit_tiny_patch16_224"),
    "positional": Contender(OURS),
    "relative": Contender(OURS, {"scores": "relative"}, (TRAINING,)),  # the same computation when frozen
    "hybrid": Contender("vit_posattn_hybrid_tiny_patch16_224"),
    "pruned16": Contender(OURS, modes=(INFERENCE,), keep=16),
    "pruned32": Contender(OURS, modes=(INFERENCE,), keep=32),
    "convit": Contender("convit_tiny"),
    "gmlp": Contender("gmlp_ti16_224", patches=False),
    "resmlp": Contender("resmlp_12_224", patches=False),
    "mixer": Contender("mixer_s16_224", patches=False),
}


TRAINED_UP_TO = 224  # px; a training step at more is left to inference's cells


@dataclass(frozen=True)
class SpeedConfig:
    """Models, sizes and modes to time."""

    models: Several[str] = tuple(CONTENDERS)
    """Of vit, positional, relative, hybrid, pruned16, pruned32, convit, gmlp, resmlp, mixer"""
    sizes: Several[Pixels] = (32, 224, 384, 512)
    """Pixels; patches are of 4 at 32 px, else of 16"""
    modes: Several[Literal["inference", "training"]] = ("inference", "training")
    """Training steps are timed up to 224 px"""
    dtypes: Several[Literal["float32", "bfloat16"]] | None = None
    """Training in bfloat16 uses autocast; default: those that the device multiplies natively"""
    executions: Several[Literal["eager", "compiled"]] = ("eager", "compiled")
    """With and without torch.compile"""
    batch: Count | None = None
    """Images; default: about 3,136 tokens' worth on a CPU, 50,176 (256 images of 224 px) on a GPU"""
    rounds: TwoOrMore = 5
    """Timed rounds, after one warm-up"""
    depth: Count = 12
    """Blocks of our models, of timm's ViT and of ConViT"""
    device: str = "cpu"
    """A torch device"""
    seed: Seed = 0
    """Seed of the weights"""
    inspection: Several[Pixels] | None = None
    """Also time inspections of timm's ViT-S/14 on the CPU at these sizes, multiples of 14, such as 224 518"""

    def validate(self) -> None:
        """Models must be known, and patches must fit the sizes."""
        if unknown := [name for name in self.models if name not in CONTENDERS]:
            raise ValueError(f"models must be of {', '.join(CONTENDERS)}, got {unknown[0]!r}")
        for size in self.sizes:
            if size % patch_size(size):
                raise ValueError(f"sizes must be multiples of the patch size, {patch_size(size)}, got {size}")

        if wrong := [size for size in self.inspection or () if size % 14]:
            raise ValueError(f"inspection must be of multiples of 14, got {wrong[0]}")

    @property
    def cells(self) -> list[tuple[str, int, str]]:
        """Mode, size and type of every comparison, the quick ones of the ratio table first."""
        return [
            (mode, size, dtype)
            for size in self.sizes
            for mode in self.modes
            for dtype in self.dtypes or ("float32", "bfloat16")
            if mode == INFERENCE or size <= TRAINED_UP_TO
        ]


def patch_size(size: int) -> int:
    """Pixels of a patch: what CIFAR's and ImageNet's ViTs have."""
    return 4 if size <= 64 else 16


@recipe
def speed(smoke: bool = False) -> SpeedConfig:
    """Speed of our models, timm's ViT-Tiny, ConViT, gMLP, ResMLP and Mixer, interleaved in one run.

    Claim: constant attention maps make inference and training steps faster, more so at high resolution. Each model is
    taken at its better of eager and compiled.
    Command: posattn bench
    Time: 7 minutes on 2 quiet CPU cores for --models vit positional; 28 for everything;
    --sizes and --modes split it, --resume continues it.
    On CPUs with AVX2 only: 6 minutes for --models vit positional, 12 for six models with --sizes 32 224.
    Expected: docs/models.md
    """
    if not smoke:
        return SpeedConfig()
    return SpeedConfig(
        ("vit", "positional", "pruned16"), (32, 192), ("inference",), ("float32",), ("eager",), 1, 2, 1
    )

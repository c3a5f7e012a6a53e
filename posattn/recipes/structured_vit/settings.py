"""The settings of `posattn run structured-vit`."""

from dataclasses import dataclass, field

from posattn.recipes import recipe
from posattn.settings import Count, NonNegative, Positive, Probability, Seed


@dataclass(frozen=True)
class Task:
    """The structured distribution; its patches are the tokens."""

    num_patches: Count = 16
    """D"""
    set_size: Count = 4
    """C"""
    dim: Count = 8
    """d"""
    noise_rate: Probability = 0.8
    """q"""


@dataclass(frozen=True)
class Model:
    """The size of both ViTs."""

    embed_dim: Count = 32
    depth: Count = 1
    num_heads: Count = 2


@dataclass(frozen=True)
class StructuredVitConfig:
    """AdamW on fresh samples at every step."""

    task: Task = field(default_factory=Task)
    model: Model = field(default_factory=Model)
    steps: Count = 2000
    batch_size: Count = 128
    lr: Positive = 3e-3
    """Of AdamW; it falls linearly to 0"""
    weight_decay: NonNegative = 0.01
    test_samples: Count = 1024
    """Fresh samples for accuracy and average attention"""
    measurements: Count = 20
    seeds: Count = 3
    seed: Seed = 0


@recipe
def structured_vit(smoke: bool = False) -> StructuredVitConfig:
    """A full Transformer on the structured data: does its position embedding, or its attention, find the sets?

    STRUCTURED
    """
    if not smoke:
        return StructuredVitConfig()
    return StructuredVitConfig(
        Task(16, 4, 8, 0.5),
        Model(16, 1, 2),
        steps=60,
        batch_size=64,
        test_samples=128,
        measurements=3,
        seeds=2,
    )

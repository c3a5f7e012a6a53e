"""The settings of `posattn run masked`."""

from dataclasses import dataclass, field

from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.recipes.kit.settings import Seeds
from posattn.settings import Count, NonNegative, Positive, Probability


@dataclass(frozen=True)
class Task:
    """The structured distribution."""

    num_patches: terms.NumPatches = 64
    set_size: terms.SetSize = 4
    dim: terms.Dim = 16
    noise_rate: terms.NoiseRate = 0.4
    mask_rate: Probability = 0.3
    """The probability that a patch is hidden"""


@dataclass(frozen=True)
class Rates:
    """Of plain gradient descent."""

    rate: Positive
    """η of A or P"""
    value_rate: NonNegative
    """η of V or v"""


@dataclass(frozen=True)
class MaskedConfig(Seeds):
    """Each objective by plain gradient descent and by Adam, from random A and from P Pᵀ."""

    task: Task = field(default_factory=Task)
    init_std: Positive = 1e-2
    """Of the Gaussian start of A off the diagonal, and of V and v"""
    encoding_dim: Count = 64
    """m, where A = P Pᵀ"""
    steps: terms.Steps = 600
    batch_size: terms.BatchSize = 128
    reconstruction: Rates = field(default_factory=lambda: Rates(300.0, 1.0))
    labels: Rates = field(default_factory=lambda: Rates(10.0, 1e-4))
    lr: Positive = 0.01
    """Learning rate of Adam, the same for both objectives"""
    measurements: terms.Measurements = 24
    test_samples: terms.TestSamples = 1024


@recipe
def masked(smoke: bool = False) -> MaskedConfig:
    """Masked reconstruction on the structured data: the sets are found without labels."""
    if not smoke:
        return MaskedConfig()
    return MaskedConfig(
        Task(16, 4, 4, 0.2),
        encoding_dim=8,
        steps=60,
        batch_size=64,
        reconstruction=Rates(100.0, 1.0),
        lr=0.03,
        measurements=4,
        test_samples=256,
        seeds=2,
    )

"""The settings of `posattn run masked`."""

from dataclasses import dataclass, field

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.recipes.kit.settings import Seeds
from posattn.settings import Count, NonNegative, Positive, Probability


@dataclass(frozen=True)
class Task:
    """The structured distribution."""

    num_patches: terms.NumPatches = 64
    set_size: terms.SharedSetSize = 4
    dim: terms.Dim = 16
    noise_rate: terms.NoiseRate = 0.4
    mask_rate: Probability = 0.3
    """The probability that a patch is hidden, above 0"""

    def validate(self) -> None:
        """Raise ValueError if sets do not divide the patches, or no patch is hidden."""
        checks.divides("set_size", self.set_size, "num_patches", self.num_patches)
        checks.positive("mask_rate", self.mask_rate)


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
    """Masked reconstruction on the structured data: gradient descent finds the sets without labels.

    Claim: from random A and from P Pᵀ alike, descent on the reconstruction of hidden patches orders the scores by the
    sets, in fewer steps than descent on the labels of as many samples, although attention over positions can explain
    only 1 % of the variance of a hidden patch, and any function of the other patches 3 %. Plain gradient descent has
    rates of its own for each objective, near the largest that do not diverge (at rate 30 labels take 275 ± 50 steps
    with A free, but diverge with A = P Pᵀ); Adam has one for both.
    Command: posattn run masked
    Time: 52 s on an AMD EPYC (2 cores shared with one other process); 67 s of CPU time.
    Expected, seeds 0 to 2, same machine, association off the diagonal at the end (chance 0.048), first measured step at
    which it is complete, attention inside the sets off the diagonal. Reconstruction, gradient descent, A free: 1.000,
    step 117 ± 14, 0.461 ± 0.006; A = P Pᵀ: 1.000, 150 ± 0, 0.703 ± 0.023. Reconstruction, Adam, A free: 1.000, 83 ± 14,
    0.425 ± 0.003; A = P Pᵀ: 1.000, 50 ± 0, 0.695 ± 0.017. Labels, gradient descent, A free: 1.000, 383 ± 38,
    0.070 ± 0.001; A = P Pᵀ: 0.734 ± 0.055, complete in 1 seed at step 425 and not at the end, 0.266 ± 0.224. Labels,
    Adam, A free: 1.000, 308 ± 14, 0.302 ± 0.013; A = P Pᵀ: 1.000, 275 ± 66, 0.739 ± 0.217.
    """
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

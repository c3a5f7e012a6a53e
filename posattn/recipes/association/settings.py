"""The settings of `posattn run association`."""

from dataclasses import dataclass, field, replace

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.recipes.kit.settings import Seeds
from posattn.settings import Count, Finite, NonNegative, Positive, Probability


@dataclass(frozen=True)
class Setting:
    """A task, a model and its training; the defaults are the paper's small experiments."""

    num_patches: terms.NumPatches = 64
    set_size: terms.SetSize = 4
    dim: terms.Dim = 128
    noise_rate: Probability | None = None
    """q, share of other patches with a random sign; default: log(d) / D"""
    noise_std: NonNegative | None = None
    """σ, noise of a patch; default: 1/√d"""
    power: terms.Power = 5
    linear: terms.Linear = 0.03
    diagonal: Finite | None = None
    """σ_A, the fixed diagonal of A; default: log log d"""
    scale: Positive | None = 1.0
    """κ, factor of the activation's input; None: D"""
    init_std: Positive = 1e-3
    """Of the Gaussian start of v and of A off the diagonal"""
    encoding_dim: Count = 64
    """m, where A = P Pᵀ"""
    batch_size: terms.BatchSize = 512
    steps: terms.Steps = 600
    rate: Positive = 1.0
    """η, the rate of A"""
    value_rate: NonNegative | None = None
    """The rate of v; default: η"""
    normalize: bool = False
    """Scale the gradients of A and of v to unit norm, which crosses the plateau"""

    def validate(self) -> None:
        """Raise ValueError if sets do not divide the patches, or log(d) / D or σ_A = log log d is out of range."""
        checks.divides("set_size", self.set_size, "num_patches", self.num_patches)
        if self.noise_rate is None:
            terms.check_small_rate(self.num_patches, self.dim)
        if self.diagonal is None:
            terms.check_small_diagonal(self.dim)


ANALYSIS = Setting(
    num_patches=128,
    set_size=8,
    dim=64,
    noise_rate=0.25,
    power=3,
    linear=0.01,
    diagonal=2.0,
    scale=None,
    encoding_dim=128,
    batch_size=128,
    steps=300,
    value_rate=1e-3,
    normalize=True,
)


@dataclass(frozen=True)
class AssociationConfig(Seeds):
    """Both settings; ``seeds`` trainings of each form of the scores."""

    small: Setting = field(default_factory=Setting)
    analysis: Setting = field(default_factory=lambda: ANALYSIS)
    measurements: terms.Measurements = 30
    frames: Count = 10
    """Maps of A that are kept, of the first seed: evenly over the training, with the last"""
    test_samples: terms.TestSamples = 1024


@recipe
def association(smoke: bool = False) -> AssociationConfig:
    """Gradient descent from random initialisation finds the hidden sets, with free scores and with A = P Pᵀ.

    Claim: in both settings patch association goes from chance to complete, with free scores before A = P Pᵀ. In the
    small setting the attention inside the sets hardly grows. The analysis setting is trained in unit-norm steps;
    plain ones wait on a plateau (recipe phases).
    Command: posattn run association
    Time: 46 s of CPU time (OMP_NUM_THREADS=1, --jobs 1).
    On CPUs with AVX2 only: 100 s of CPU time (AMD EPYC, beside other work). The same numbers, but for A = P Pᵀ of the
    analysis: 0.998 ± 0.004, step 172 ± 41, attention 0.787 ± 0.015.
    Expected, seeds 0 to 9, 1 thread of an AMD EPYC: small, A free: association 0.285 ± 0.017 to 1.000 ± 0.000, complete
    at step 80 ± 0, attention inside the sets 0.116 to 0.128, accuracy 0.984 ± 0.005; small, A = P Pᵀ: 1.000 ± 0.000,
    step 356 ± 28, attention 0.117. Analysis, A free: 0.171 ± 0.004 to 1.000 ± 0.000, step 35 ± 5, attention 0.312 ±
    0.008, accuracy 1.000 ± 0.001; A = P Pᵀ: 0.999 ± 0.003, complete in 9 of 10 seeds at step 164 ± 34, attention 0.784
    ± 0.018.
    """
    if not smoke:
        return AssociationConfig(seeds=10)
    return AssociationConfig(
        replace(Setting(), steps=60, batch_size=256),
        replace(ANALYSIS, num_patches=64, encoding_dim=64, steps=60, batch_size=64),
        seeds=2,
        measurements=6,
        frames=3,
        test_samples=256,
    )

"""The settings of `posattn run phases`."""

import math
from dataclasses import dataclass, field, replace

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.settings import Count, Distincts, Finite, Positive, Probability

LARGEST_DIAGONAL = 700.0  # the times are shown against exp(σ_A) - 1


@dataclass(frozen=True)
class FlowSetting:
    """A population flow from A_ij = 0 and v = α₀ w*."""

    num_patches: terms.NumPatches = 480
    set_size: terms.SetSize = 8
    noise_rate: terms.NoiseRate = 0.25
    power: terms.Power = 3
    linear: terms.Linear = 0.01
    diagonal: Finite = 2.0
    """σ_A, the fixed diagonal of A"""
    scale: Positive | None = None
    """κ, factor of the activation's input; default: D"""
    alpha: Positive = 0.005
    """α₀, the length of v at the start"""
    samples: Count = 4000
    """Samples that the flow descends on, drawn once by importance sampling"""
    t_end: Positive = 1e10
    """Time at which the flow ends"""
    rtol: Positive = 1e-6
    """Relative tolerance of a solver step"""

    def validate(self) -> None:
        """Raise ValueError if sets do not divide the patches."""
        checks.divides("set_size", self.set_size, "num_patches", self.num_patches)


@dataclass(frozen=True)
class Descent:
    """SGD exact in law, at a setting whose plateau is affordable, compared with its flow."""

    flow: FlowSetting = field(
        default_factory=lambda: FlowSetting(
            num_patches=128, scale=1.0, alpha=0.64, samples=20_000, t_end=25_000.0
        )
    )
    dim: terms.Dim = 64
    rate: Positive = 2.0
    """η: time is η times the number of steps"""
    batch_size: terms.BatchSize = 64
    seeds: terms.NumSeeds = 4
    measurements: terms.Measurements = 40
    test_samples: terms.TestSamples = 2048

    @property
    def steps(self) -> int:
        """Steps until the flow ends."""
        return math.ceil(self.flow.t_end / self.rate)


@dataclass(frozen=True)
class Scan:
    """The values of each varied number, the others as in the flow. No values: that number is not varied."""

    num_patches: Distincts[Count] = (320, 480, 640, 960, 1280, 1920)
    """Values of D"""
    set_size: Distincts[Count] = (4, 5, 6, 8, 10)
    """Values of C"""
    noise_rate: Distincts[Probability] = (0.15, 0.2, 0.25, 0.35, 0.5)
    """Values of q"""
    linear: Distincts[Positive] = (0.0025, 0.005, 0.01, 0.02, 0.04)
    """Values of ν"""
    diagonal: Distincts[Positive] = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    """Values of σ_A"""
    scale: Distincts[Positive] = (0.001, 0.01, 0.1, 1.0, 480.0)
    """Values of κ"""
    seeds: terms.NumSeeds = 4
    level: Probability = 0.75
    """The transition is where the loss falls below this share of the plateau's"""


@dataclass(frozen=True)
class PhasesConfig:
    """The flow shown, the numbers varied, and the descent compared with its flow."""

    flow: FlowSetting = field(default_factory=FlowSetting)
    scan: Scan = field(default_factory=Scan)
    descent: Descent = field(default_factory=Descent)
    seed: terms.FirstSeed = 0

    def validate(self) -> None:
        """Raise ValueError if sets of a scanned size do not divide the patches, or sets a scanned number of patches.

        The same if exp(σ_A) of a scanned σ_A is no float, or the descent has no pairs of patches in one set, or none in
        two.
        """
        for num_patches in self.scan.num_patches:
            checks.divides("--flow.set-size", self.flow.set_size, "--scan.num-patches", num_patches)
        for set_size in self.scan.set_size:
            checks.divides("--scan.set-size", set_size, "--flow.num-patches", self.flow.num_patches)
        for diagonal in self.scan.diagonal:
            if diagonal > LARGEST_DIAGONAL:
                raise ValueError(f"--scan.diagonal must be at most {LARGEST_DIAGONAL:g}, got {diagonal:g}")
        D, C = self.descent.flow.num_patches, self.descent.flow.set_size
        if not 1 < C < D:
            raise ValueError(f"--descent.flow.set-size must be above 1 and below D = {D}, got {C}")


@recipe
def phases(smoke: bool = False) -> PhasesConfig:
    """The population flow's plateau and transition, how the transition time scales, and SGD on top of the flow.

    Claim: the loss stays at the lowest that v alone reaches until γ has grown, then falls; SGD follows the flow. The
    plateau lasts longer with larger D, q and ν and shorter with larger C and σ_A. Only the time against C looks like a
    power law; κ matters only where it is so small that A waits for v.
    Command: posattn run phases
    Time: 125 s of CPU time with --jobs 1 on an AMD EPYC (2 cores shared with much other work).
    On CPUs with AVX2 only: 260 s of CPU time (AMD EPYC, beside other work), the same numbers.
    Expected, seeds 0 to 3, same machine: plateau 0.495 and transition at t = 7.41e5 (D = 480, C = 8, q = 0.25, seed 0);
    at 10 times that γ = 5.87, loss 2.3e-4, accuracy 0.9999. SGD at D = 128 has its transition at 9383 ± 831, the flow
    at 9080. Local powers, from the first to the last: D 3.9 to 5.2, q 1.9 to 2.7, ν 0.2 to 1.5, exp(σ_A) - 1 -0.4 to
    -0.9 and back to -0.2, κ -1.4 to 0.0; each rejects a power law (p < 1e-4). C: -2.89 (-2.99 to -2.78), p = 0.018.
    """
    if not smoke:
        return PhasesConfig()
    small = FlowSetting(num_patches=96, samples=2000, t_end=2e4, rtol=1e-4)
    return PhasesConfig(
        small,
        Scan((80, 96, 112), (), (), (), (), (), seeds=2),
        Descent(
            replace(small, scale=1.0, alpha=0.64, t_end=400.0), seeds=2, measurements=8, test_samples=256
        ),
    )

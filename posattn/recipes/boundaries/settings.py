"""The settings of `posattn run boundaries`."""

from dataclasses import dataclass

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.recipes.kit.settings import Seeds
from posattn.settings import Count, Finite, NonNegative, Positive, Several


@dataclass(frozen=True)
class BoundariesConfig(Seeds):
    """A grid over q·D/C², σ_A and σ: descent in unit-norm steps on fresh samples, and the population flow."""

    num_patches: terms.NumPatches = 128
    set_size: terms.SharedSetSize = 4
    dim: terms.Dim = 64
    ratios: Several[NonNegative] = tuple(2.0 ** (k / 2) for k in range(-4, 5))
    """q·D / C², in increasing order"""
    diagonals: Several[Finite] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
    """σ_A, the fixed diagonal of A"""
    noise_stds: Several[NonNegative] = (0.125, 1.0, 4.0)
    """σ, noise of a patch; 0.125 is 1/√d at d = 64"""
    steps: terms.Steps = 300
    batch_size: terms.BatchSize = 128
    rate: Positive = 0.12
    """Length of a step of A, in units of √D"""
    value_rate: NonNegative = 0.0003
    """Length of a step of v"""
    test_samples: Count = 2048
    """Samples that accuracy is measured on"""
    flow_samples: Count = 2000
    """Samples that the population flow descends on"""
    flow_times: Several[Positive] = (1e4, 1e5, 1e6)
    """Times (rate times number of steps) at which the population flow is read; its start: α = 0.005, β = γ = ρ = 0"""

    def validate(self) -> None:
        """Raise ValueError if sets do not divide the patches, ratios do not increase, or one needs q > 1."""
        checks.divides("set_size", self.set_size, "num_patches", self.num_patches)
        if list(self.ratios) != sorted(set(self.ratios)):
            raise ValueError(f"ratios must increase, got {self.ratios}")
        for ratio in self.ratios:
            self.noise_rate(ratio)

    def noise_rate(self, ratio: float) -> float:
        """q at a value of q·D / C²."""
        rate = ratio * self.set_size**2 / self.num_patches
        return checks.probability(f"the noise rate q of --ratios {ratio:g}", rate)


@recipe
def boundaries(smoke: bool = False) -> BoundariesConfig:
    """Whether descent finds the structure depends on the fixed diagonal; larger noise needs a larger one.

    Claim: σ_A = 0 is a fixed point of the attention. The σ_A needed to find the sets within a number of steps grows
    with q·D and with σ. At q·D = C² the sum over all patches no longer decides the label, but the sets are still
    found. The population flow finds them for every σ_A above 0 at these D, C and q, given time.
    Command: posattn run boundaries
    Time: 260 s of CPU time on an AMD EPYC (2 cores shared with much other work), 38 s of it for the flow.
    On CPUs with AVX2 only: 580 s of CPU time (AMD EPYC, beside other work), the same numbers.
    Expected, mean over seeds 0 to 2: the smallest σ_A for an association of 0.9 at q·D/C² = 1/4, 1 and 4 is 0.5, 1 and
    3 at σ = 1/8, 2, 2 and 4 at σ = 1, and 4, 4 and none up to 5 at σ = 4. At σ = 1/8, σ_A = 5 and q·D/C² = 4 the
    association is 1.00 and the accuracy 0.69: the scores are in the right order before the attention is sharp. The
    flow's γ - ρ exceeds 1 in 33%, 84% and 98% of the settings with σ_A > 0 by t = 1e4, 1e5 and 1e6 (seed 0; in 14 of 72
    settings the flow's sample stops representing the population before t = 1e6, with γ - ρ above 2.5 by then).
    """
    if not smoke:
        return BoundariesConfig()
    return BoundariesConfig(
        num_patches=32,
        dim=16,
        ratios=(0.5, 1.0, 2.0),
        diagonals=(0.0, 2.0),
        noise_stds=(0.25, 2.0),
        seeds=1,
        steps=100,
        test_samples=256,
        flow_samples=200,
        flow_times=(1e3, 1e4),
    )

"""The settings of `posattn run solutions`."""

from dataclasses import dataclass

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.recipes.kit.settings import Seeds
from posattn.settings import Finite, NonNegative, Positive, Several


@dataclass(frozen=True)
class SolutionsConfig(Seeds):
    """A task that needs the structure, q·D > C², and plain gradient descent in law from near each solution."""

    num_patches: terms.NumPatches = 256
    set_size: terms.SetSize = 8
    dim: terms.Dim = 64
    noise_rate: terms.NoiseRate = 0.35
    power: terms.Power = 3
    linear: terms.Linear = 0.01
    diagonal: Finite = 2.0
    """σ_A, the fixed diagonal of A"""
    scale: Positive = 1.0
    """κ, factor of the activation's input"""
    sharpness: NonNegative = 0.5
    """Trainings start with the solution's score differences times this"""
    noises: Several[NonNegative] = (0.1, 1.0)
    """Standard deviations of the noise added to A; v gets a tenth of it, relative to its length. Each training draws
    after those before it"""
    margin: Positive = 1.0
    """v is scaled so that the mean |F(X)| at the start is this; otherwise the gradients vanish"""
    steps: terms.Steps = 3000
    batch_size: terms.BatchSize = 128
    rate: Positive = 50.0
    """η of A, whose entries are D² and whose gradients are small"""
    value_rate: NonNegative = 0.3
    """η of v"""
    test_samples: terms.TestSamples = 2048

    def validate(self) -> None:
        """Raise ValueError if sets do not divide the patches."""
        checks.divides("set_size", self.set_size, "num_patches", self.num_patches)


@recipe
def solutions(smoke: bool = False) -> SolutionsConfig:
    """Many solutions generalise, some without the structure; gradient descent stays near those that do.

    Claim: the associated, the permuted and the delegates' solution generalise, with association 1, 0 and little over
    1/C; uniform attention and delegates with the others on themselves do not. Plain gradient descent from noise around
    one of the first three keeps its association, and leaves the other two.
    Command: posattn run solutions
    Time: 190 s of CPU time (OMP_NUM_THREADS=1, --jobs 1).
    On CPUs with AVX2 only: 350 s of CPU time (AMD EPYC, beside other work), the same numbers.
    Expected, seeds 0 to 2, 1 thread of an AMD EPYC, accuracy as built: 1.000, 1.000, 1.000, 0.802 ± 0.017, 0.815 ±
    0.013. With uniform attention the sum over all patches has the sign of the label in 0.790 of the samples and is 0 in
    0.030, where rounding gives some a sign. Distance to the solution before and after training from noise 1: associated
    0.402 to 0.238, permuted 0.407 to 0.230, delegates 0.383 to 0.337, uniform attention 0.381 to 0.448 (accuracy 0.988
    ± 0.001, association 0.028 ± 0.002), others on themselves 0.674 to 0.750. From noise 0.1: the first three within
    0.004 of the start, uniform attention still on its plateau (accuracy 0.808), others on themselves to association
    0.882 ± 0.005 and accuracy 0.975 ± 0.003.
    """
    if not smoke:
        return SolutionsConfig()
    return SolutionsConfig(
        num_patches=128, noise_rate=0.5, noises=(1.0,), steps=300, seeds=1, test_samples=512
    )

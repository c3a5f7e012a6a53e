"""The settings of `posattn run teachers`."""

from dataclasses import dataclass

from posattn import checks
from posattn.recipes import recipe
from posattn.recipes.kit import terms
from posattn.recipes.kit.settings import Seeds
from posattn.settings import Count, NonNegative, Positive


@dataclass(frozen=True)
class TeachersConfig(Seeds):
    """Plain gradient descent on fresh samples, the same for every teacher."""

    num_patches: terms.NumPatches = 32
    dim: Count = 16
    """d, dimension of a patch"""
    outputs: Count = 8
    """k, the filters; the classifier has one output"""
    set_size: Count = 4
    """C, patches of a pooling window"""
    degree: Count = 4
    """Of the graph, even"""
    selected: Count = 3
    """s, tokens of a subset"""
    steps: terms.Steps = 1500
    batch_size: terms.BatchSize = 256
    rate: Positive = 5.0
    """η of A per query: the loss is a mean over Q queries, so A moves at Q times this"""
    value_rate: NonNegative = 1.0
    """η of V"""
    measurements: terms.Measurements = 20

    def validate(self) -> None:
        """Raise ValueError if windows do not divide the patches, or the graph or the subsets do not exist."""
        checks.divides("set_size", self.set_size, "num_patches", self.num_patches)
        if self.degree % 2 or self.degree >= self.num_patches:
            raise ValueError(
                f"degree must be even and below num_patches = {self.num_patches}, got {self.degree}"
            )
        if self.selected > self.num_patches:
            raise ValueError(
                f"selected must be at most num_patches = {self.num_patches}, got {self.selected}"
            )


@recipe
def teachers(smoke: bool = False) -> TeachersConfig:
    """Attention over positions recovers the true attention of four structured teachers beyond the paper.

    Claim: a student softmax(A) X V, trained by gradient descent, comes close in total variation to the true attention
    of a convolution with average pooling, a graph convolution, token selection and group-sparse classification.
    Command: posattn run teachers
    Time: 122 s of CPU time (OMP_NUM_THREADS=1, --jobs 1).
    On CPUs with AVX2 only: 200 s of CPU time (AMD EPYC, beside other work), the same numbers to 0.0001.
    Expected, mean ± std over seeds 0 to 9: total variation a row, from 0.8750 untrained to 0.0790 ± 0.0002
    (convolution), 0.8437 to 0.0860 ± 0.0002 (graph), 0.9063 to 0.0491 ± 0.0001 (selection), 0.9688 to 0.0020 ± 0.0001
    (classification).
    """
    if not smoke:
        return TeachersConfig(seeds=10)
    return TeachersConfig(
        num_patches=8, dim=4, outputs=3, set_size=2, degree=2, selected=2, seeds=2, steps=300, value_rate=0.5
    )

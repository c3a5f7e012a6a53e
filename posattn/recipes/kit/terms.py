"""The terms of the structured task and of training on it, as types of settings that carry their help."""

import math
from typing import Annotated

from tyro.conf import arg

from posattn.settings import Count, NonNegative, OddPower, Probability, Seed, TwoOrMore

NumPatches = Annotated[Count, arg(help="D, patches of a sample")]
SetSize = Annotated[Count, arg(help="C, patches of a set")]
SharedSetSize = Annotated[TwoOrMore, arg(help="C, patches of a set")]  # where a patch has others in its set
Dim = Annotated[TwoOrMore, arg(help="d, dimension of a patch")]
NoiseRate = Annotated[Probability, arg(help="q, probability that a patch of another set has a sign")]
Power = Annotated[OddPower, arg(help="p of the activation z^p + ν z")]
Linear = Annotated[NonNegative, arg(help="ν of the activation z^p + ν z")]
Steps = Annotated[Count, arg(help="Gradient steps")]
BatchSize = Annotated[Count, arg(help="Fresh samples per step")]
TestSamples = Annotated[
    Count,
    arg(help="Samples that accuracy is measured on; what is drawn after them changes with their number"),
]
Measurements = Annotated[Count, arg(help="Steps at which a training is measured")]
NumSeeds = Annotated[Count, arg(help="Number of seeds: each is a training of its own")]
FirstSeed = Annotated[Seed, arg(help="The first seed")]


def check_small_rate(num_patches: int, dim: int) -> None:
    """Raise ValueError if q = log(d) / D, as in the paper's small experiments, is no probability."""
    if math.log(dim) > num_patches:
        given = f"dim={dim}, num_patches={num_patches}"
        raise ValueError(f"dim must be at most exp(num_patches) for q = log(d) / D, got {given}")


def check_small_diagonal(dim: int) -> None:
    """Raise ValueError if σ_A = log log d, as in the paper's small experiments, is not a number."""
    if dim < 3:
        raise ValueError(f"dim must be at least 3 for σ_A = log log d, got {dim}")

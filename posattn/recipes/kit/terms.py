"""The terms of the structured task and of training on it, as types of settings that carry their help."""

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
TestSamples = Annotated[Count, arg(help="Samples that accuracy is measured on")]
Measurements = Annotated[Count, arg(help="Steps at which a training is measured")]
NumSeeds = Annotated[Count, arg(help="Number of seeds: each is a training of its own")]
FirstSeed = Annotated[Seed, arg(help="The first seed")]

"""Axis letters used in shapes throughout the package (the paper's symbols where it has one).

n  samples (images) in a batch        B  batch size where n is taken
D  patches, also tokens of a grid     d  dimension of a patch
L  sets of the partition              C  patches in a set, C = D / L
h  heads                              c  channels of an image
H  rows of an image or a grid         W  columns of an image or a grid
m  dimension of a positional encoding
"""

from jaxtyping import Bool, Float
from torch import Tensor

Patches = Float[Tensor, "n D d"]
Signal = Float[Tensor, "n D"]  # u_j = <w*, X_j> of every patch, in {-1, 0, 1}
Labels = Float[Tensor, " n"]  # +1 or -1
Logits = Float[Tensor, " n"]
Feature = Float[Tensor, " d"]
Scores = Float[Tensor, "D D"]  # row: query patch, column: key patch
Maps = Float[Tensor, "*heads D D"]  # attention maps or scores of any number of heads
Pairs = Bool[Tensor, "D D"]

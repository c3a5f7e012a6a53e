"""Maps of random locality: a control for maps that were learned."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from posattn.vision.grid import Grid, offsets


def local_maps(shape: tuple[int, ...], grid: tuple[int, int], seed: int) -> Float[Tensor, "layers h N N"]:
    """Maps that look near the query: in each head a Gaussian of random width around a random offset.

    Offsets are normal with a standard deviation of one patch, widths log-uniform between 0.5 and 2 patches.
    """
    generator = Generator().manual_seed(seed)
    tokens = Grid(*grid)
    centre = torch.randn(*shape[:2], 2, 1, 1, generator=generator, dtype=torch.double)
    width = 0.5 * 4 ** torch.rand(*shape[:2], 1, 1, generator=generator, dtype=torch.double)
    distance = (offsets(tokens) + centre).norm(dim=2)
    return (-(distance**2) / (2 * width**2)).softmax(-1)

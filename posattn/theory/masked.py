"""Masked reconstruction on the structured data: without labels, a hidden patch is predicted from its set.

Patches of the informative set carry the same label along w*, so that <w*, X_i> X_j has the mean w*/L for two patches of
one set and 0 across sets. A model with attention over positions alone therefore predicts a hidden patch from its
own set. Beyond arXiv 2210.09221; the task is that of masked autoencoders (He et al., arXiv 2111.06377).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Patches
from posattn.theory.protocols import Task
from posattn.theory.student import PositionStudent


class MaskedBatch(NamedTuple):
    """Samples with hidden patches."""

    patches: Patches  # 0 where hidden
    labels: Patches  # the hidden patches, NaN where shown


def masked(task: Task, n: int, mask_rate: float, *, generator: Generator | None = None) -> MaskedBatch:
    """``n`` fresh samples of ``task``, each patch hidden with probability ``mask_rate``.

    Raises ValueError if ``n`` is below 1 or ``mask_rate`` is not a probability.
    """
    checks.probability("mask_rate", mask_rate)
    patches = task.sample(n, generator=generator).patches
    hidden = torch.rand(patches.shape[:2], generator=generator, device=patches.device) < mask_rate
    return MaskedBatch(
        patches.masked_fill(hidden[..., None], 0.0), patches.masked_fill(~hidden[..., None], torch.nan)
    )


def masked_error(outputs: Patches, labels: Patches) -> Float[Tensor, ""]:
    """The mean squared error over hidden patches, summed over their d entries; 0 where none is hidden."""
    hidden = ~labels.isnan()
    errors = torch.where(hidden, outputs - labels.nan_to_num(), 0.0).square().sum()
    return errors / hidden[..., 0].sum().clamp(min=1)


def reconstructor(
    task: Task, *, init_std: float = 1e-2, generator: Generator | None = None
) -> PositionStudent:
    """A student that reconstructs every patch, S X V with V (d, d); train it with ``masked_error``.

    ``init_std`` and errors are those of ``PositionStudent``.
    """
    patches = task.sample(1, generator=generator).patches
    _, D, d = patches.shape
    return PositionStudent(D, D, d, d, "linear", init_std=init_std, generator=generator).to(patches)

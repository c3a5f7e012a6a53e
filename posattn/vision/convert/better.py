"""Of a model before and after a training, the better one, by pictures that it was not trained on."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from posattn.vision.convert.quality import Estimate, Quality, estimate, features_of
from posattn.vision.modes import evaluating


class Verdict(NamedTuple):
    """The comparison of a model after a training with itself before."""

    better: bool
    gain: Estimate  # of the metric by the training, paired over images


@torch.no_grad()
def keep_better(
    model: nn.Module, before: Mapping[str, Tensor], quality: Quality, batches: list[Tensor], metric: str
) -> Verdict:
    """Give a trained model, in place, its weights from before unless it has become better.

    Better: the metric has risen by more than the standard error of its rise.

    Args:
        model: the trained model.
        before: its state before the training.
        quality: of the original's outputs on the images.
        batches: images as the model takes them, which it was not trained on.
        metric: one of ``quality.METRICS``.
    """
    now = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    try:
        with evaluating(model):
            for state in (before, now):
                model.load_state_dict(state)
                found.append(quality.of(features_of(model, batches))[metric])
    finally:
        model.load_state_dict(now)  # an error on the way takes no training away
    gain = estimate(found[1] - found[0])
    if not (better := gain.mean > gain.stderr):
        model.load_state_dict(before)
    return Verdict(better, gain)

"""How well a changed model keeps the original's outputs, image by image, so that every mean has an error."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from posattn import checks
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.training.loop import predicted

COSINE, NEIGHBOURS, ACCURACY, DIVERGENCE = "cosine", "neighbours", "accuracy", "divergence"
METRICS = (COSINE, NEIGHBOURS, ACCURACY)  # to choose by; higher is better
NEAREST = 10


class Outputs(NamedTuple):
    """A model's outputs on images, in float32."""

    features: Float[Tensor, "n d"]  # pooled, before the classifier
    logits: Float[Tensor, "n c"] | None  # None without a classifier


class Estimate(NamedTuple):
    """A mean over images and its standard error."""

    mean: float
    stderr: float


def outputs(model: Any, batch: Float[Tensor, "n c H W"]) -> Outputs:
    """Features and logits of a model; see ``adapters``."""
    _, features, logits = adapter_of(model).forward(batch)
    return Outputs(features.float(), None if logits is None else logits.float())


def joined(parts: list[Outputs]) -> Outputs:
    """The outputs of all batches."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Outputs(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


class Quality:
    """Compares outputs with those of the original model on the same images.

    ==========  ================================================================================================
    cosine      of each image's features with the original's
    neighbours  share of an image's ``nearest`` neighbours in the original's features (by cosine, among the
                other images) that are its nearest in the features
    accuracy    with labels: of the classifier, where it has as many classes as the labels; else whether most of
                the nearest other images, weighted by their cosine, have the image's label
    divergence  Kullback-Leibler divergence of the class probabilities from the original's, in nats; lower is
                better, only with a classifier
    ==========  ================================================================================================

    Args:
        original: the original's outputs.
        labels: of the images.
        nearest: k, neighbours of an image.
        classes: how many classes the labels are of; None for the largest label + 1.

    Raises:
        ValueError: fewer images than the errors need, features that do not vary over images, not as many labels as
            images, or an original that is right on none of them.
    """

    def __init__(
        self,
        original: Outputs,
        labels: Int[Tensor, " n"] | None = None,
        nearest: int = NEAREST,
        classes: int | None = None,
    ) -> None:
        n = len(original.features)
        if n < checks.positive_int("nearest", nearest) + 2:
            raise ValueError(
                f"{nearest} nearest neighbours and errors need at least {nearest + 2} images, got {n}"
            )
        if labels is not None and len(labels) != n:
            raise ValueError(f"labels must be as many as the {n} images, got {len(labels)}")
        check_vary(original.features)
        self.original, self.labels, self.nearest = original, labels, nearest
        self.neighbours = neighbours(original.features, nearest)
        count = classes or (0 if labels is None else int(labels.max()) + 1)
        self.classifies = original.logits is not None and original.logits.shape[1] == count
        self.before = self.of(original)
        if labels is not None and not self.before[ACCURACY].any():
            raise ValueError(
                f"the model is right on none of the {n} images: its classes are not those of the labels"
            )

    def of(self, changed: Outputs) -> dict[str, Float[Tensor, " n"]]:
        """Each measure image by image."""
        near = neighbours(changed.features, self.nearest)
        common = (near[:, :, None] == self.neighbours[:, None, :]).any(2)
        found = {
            COSINE: F.cosine_similarity(changed.features, self.original.features).double(),
            NEIGHBOURS: common.double().mean(1),
        }
        if self.labels is not None:
            found[ACCURACY] = self.right(changed, near).double()
        if self.original.logits is not None and changed.logits is not None:
            target, own = (
                logits.double().log_softmax(1) for logits in (self.original.logits, changed.logits)
            )
            found[DIVERGENCE] = (target.exp() * (target - own)).sum(1)
        return found

    def right(self, changed: Outputs, near: Int[Tensor, "n k"]) -> Bool[Tensor, " n"]:
        """Whether each image is classified as it is labelled."""
        assert self.labels is not None
        if self.classifies and changed.logits is not None:
            return predicted(changed.logits) == self.labels
        return vote(changed.features, near, self.labels) == self.labels

    def kept(self, found: Mapping[str, Tensor], metric: str) -> float:
        """The quantity that a budget bounds: the mean of a metric, or the accuracy's share of the original's."""
        value = found[metric].mean().item()
        return value / self.before[ACCURACY].mean().item() if metric == ACCURACY else value


def loss(found: Mapping[str, Tensor], before: Mapping[str, Tensor], metric: str) -> Float[Tensor, " n"]:
    """The loss of each image: the fall of the metric, or the divergence."""
    return found[metric] if metric == DIVERGENCE else before[metric] - found[metric]


def check_vary(features: Float[Tensor, "n d"]) -> None:
    """Raise ValueError for features that are not finite, or the same for all images."""
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).sum())
        raise ValueError(f"the features of {bad} of {len(features)} images are not finite")
    spread = (features - features.mean(0)).norm(dim=1).max().item()
    if spread <= 1e-6 * features.norm(dim=1).max().item():
        raise ValueError(
            f"features are constant over the {len(features)} images: there is nothing to compare"
        )


def neighbours(features: Float[Tensor, "n d"], nearest: int) -> Int[Tensor, "n k"]:
    """The other images nearest to each by cosine, the nearest first."""
    unit = F.normalize(features, dim=1)
    return (unit @ unit.T).fill_diagonal_(-torch.inf).topk(nearest, 1).indices


def vote(
    features: Float[Tensor, "n d"], near: Int[Tensor, "n k"], labels: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """The label that the neighbours vote for, each with the weight of its cosine."""
    unit = F.normalize(features, dim=1)
    return tally(torch.einsum("nd,nkd->nk", unit, unit[near]).double(), labels[near])


def tally(weights: Float[Tensor, "n k"], labels: Int[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """The label with the largest sum of weights, among those that have one: weights may be negative."""
    votes = weights.new_zeros(len(labels), int(labels.max()) + 1)
    without = votes.scatter(1, labels, 1.0) == 0
    return votes.scatter_add(1, labels, weights).masked_fill(without, -torch.inf).argmax(1)


def estimate(values: Shaped[Tensor, " n"]) -> Estimate:
    """Mean and standard error. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"an error needs at least two images, got {len(values)}")
    return Estimate(values.double().mean().item(), (values.double().std() / len(values) ** 0.5).item())


def features_of(model: nn.Module, batches: Iterable[Tensor]) -> Outputs:
    """The outputs of a model in evaluation mode on batches of images."""
    return joined([outputs(model, batch) for batch in batches])

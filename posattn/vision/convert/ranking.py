"""The accuracy that each head of a classifier costs when it alone is converted."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from posattn.vision.convert.choice import Kinds
from posattn.vision.convert.heads import TABLE
from posattn.vision.convert.layers import attention_of
from posattn.vision.convert.needs import Head
from posattn.vision.convert.quality import Outputs, estimate
from posattn.vision.convert.reruns import Subject, outputs_of_choices
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.models.attention import MapsHNN
from posattn.vision.training.loop import predicted

BATCH = 512


class Need(NamedTuple):
    """The cost of replacing one head by its average map."""

    block: int
    head: int
    drop: float  # of the accuracy
    stderr: float  # of the drop, over the images, paired
    loss: float  # increase of the mean cross-entropy


class Outcome(NamedTuple):
    """A classifier's outcome on each image."""

    correct: Bool[Tensor, " n"]
    loss: Float[Tensor, " n"]


def outcome(found: Outputs, image_set: ImageSet) -> Outcome:
    """Right or wrong, and the cross-entropy, image by image."""
    assert found.logits is not None
    loss = F.cross_entropy(found.logits, image_set.labels, reduction="none")
    return Outcome(predicted(found.logits) == image_set.labels, loss)


def outcomes(
    vit: nn.Module, maps: Mapping[int, MapsHNN], choices: list[Kinds], image_set: ImageSet
) -> list[Outcome]:
    """The outcome with the heads of each choice replaced by ``maps``."""
    subject = Subject(vit, attention_of(vit), {TABLE: maps})
    batches = to_float(image_set.images).split(BATCH)
    return [outcome(found, image_set) for found in outputs_of_choices(subject, choices, batches)]


def content_needs(vit: nn.Module, maps: Mapping[int, MapsHNN], image_set: ImageSet) -> list[Need]:
    """Every head of the blocks of ``maps``, replaced alone, the cheapest to replace first.

    Ordered by the drop of accuracy, equal ones by the increase of the loss.

    Args:
        vit: a trained classifier with content-based attention.
        maps: of ``average_maps``: the (h, N, N) average attention of each block.
        image_set: what the loss is measured on.
    """
    heads = heads_of(maps)
    whole, *alone = outcomes(vit, maps, [{}, *({block: {head: TABLE}} for block, head in heads)], image_set)
    needs = []
    for (block, head), replaced in zip(heads, alone, strict=True):
        drop = estimate(whole.correct.double() - replaced.correct.double())
        needs.append(Need(block, head, *drop, (replaced.loss - whole.loss).mean().item()))
    return sorted(needs, key=lambda need: (need.drop, need.loss))


def heads_of(maps: Mapping[int, MapsHNN]) -> list[Head]:
    """Block and number of every head."""
    return [(block, head) for block, of_block in maps.items() for head in range(len(of_block))]


def accuracy_over_replaced(
    vit: nn.Module, maps: Mapping[int, MapsHNN], order: Iterable[Head], image_set: ImageSet
) -> list[float]:
    """Accuracy with no head replaced, with the first of ``order``, the first two, and so on to all of them."""
    choices: list[dict[int, dict[int, str]]] = [{}]
    for block, head in order:
        before = choices[-1]
        choices.append({**before, block: {**before.get(block, {}), head: TABLE}})
    return [found.correct.double().mean().item() for found in outcomes(vit, maps, list(choices), image_set)]

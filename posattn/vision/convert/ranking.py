"""How much each head of a trained ViT needs the content of the image: what is lost when its map is made constant."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.models import VisionTransformer
from torch import Tensor, nn

from posattn.vision.convert.maps import replace_heads
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.models.attention import MapsHNN

BATCH = 512
Head = tuple[int, int]  # block, head


class Need(NamedTuple):
    """What replacing one head by its average map costs."""

    block: int
    head: int
    drop: float  # of the accuracy
    stderr: float  # of the drop, over the images, paired
    loss: float  # increase of the mean cross-entropy


class Outcome(NamedTuple):
    """What a classifier makes of each image."""

    correct: Bool[Tensor, " n"]
    loss: Float[Tensor, " n"]


@torch.no_grad()
def outcome(model: nn.Module, image_set: ImageSet) -> Outcome:
    """Right or wrong, and the cross-entropy, image by image; the model is left in evaluation mode."""
    model.eval()
    parts = [model(to_float(images)) for images in image_set.images.split(BATCH)]
    logits = torch.cat(parts)
    loss = F.cross_entropy(logits, image_set.labels, reduction="none")
    return Outcome(logits.argmax(-1) == image_set.labels, loss)


def content_needs(vit: VisionTransformer, maps: Mapping[int, MapsHNN], image_set: ImageSet) -> list[Need]:
    """Every head of the blocks of ``maps``, replaced alone, the most positional first.

    Ordered by the drop of accuracy, equal ones by the increase of the loss.

    Args:
        vit: a trained ViT with content-based attention.
        maps: of ``average_maps``: the (h, N, N) average attention of each block.
        image_set: what the loss is measured on.
    """
    whole = outcome(vit, image_set)
    needs = []
    for block, head in heads_of(maps):
        replaced = outcome(replace_heads(vit, maps, {block: [head]}), image_set)
        lost = whole.correct.double() - replaced.correct.double()
        increase = (replaced.loss - whole.loss).mean().item()
        needs.append(Need(block, head, lost.mean().item(), (lost.std() / len(lost) ** 0.5).item(), increase))
    return sorted(needs, key=lambda need: (need.drop, need.loss))


def heads_of(maps: Mapping[int, MapsHNN]) -> list[Head]:
    """Block and number of every head."""
    return [(block, head) for block, of_block in maps.items() for head in range(len(of_block))]


def accuracy_over_replaced(
    vit: VisionTransformer, maps: Mapping[int, MapsHNN], order: Iterable[Head], image_set: ImageSet
) -> list[float]:
    """Accuracy with no head replaced, with the first of ``order``, the first two, and so on to all of them."""
    replaced: dict[int, list[int]] = {}
    found = [outcome(vit, image_set).correct.double().mean().item()]
    for block, head in order:
        replaced.setdefault(block, []).append(head)
        model = replace_heads(vit, maps, replaced)
        found.append(outcome(model, image_set).correct.double().mean().item())
    return found

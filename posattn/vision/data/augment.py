"""Random augmentation of a batch of images on its own device.

All draws come from torch's global generators of the CPU and of the images' device.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torchvision.transforms import v2

from posattn.vision.data.decoding import Images

POLICIES = {"trivial": v2.TrivialAugmentWide(), "rand": v2.RandAugment()}
# torchvision draws once per call, and one call per image is too slow, so that groups of images share a draw. 512 images
# of 32 px take 17 ms on an H100 in groups of 8 and 4 ms in groups of 32; crops and mirror images take 0.2 ms.
GROUP, GROUPS = 8, 16  # the smallest group, and the groups of more images
# the most images that a policy is applied to together, and about the most pixels
TOGETHER, PIXELS = 1024, 2**20

Mixer = Callable[
    [Float[Tensor, "n c H W"], Int[Tensor, " n"]], tuple[Float[Tensor, "n c H W"], Shaped[Tensor, "n ..."]]
]


def derived_seed(*numbers: int) -> int:
    """A seed that depends on all of ``numbers`` (not on zeros at the end), without the overlaps of their sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def batches_together(size: int, height: int, width: int) -> int:
    """How many batches of ``size`` images a policy is applied to together: 8 of 128 images of 32 px, 1 of 224 px."""
    return max(1, min(TOGETHER, PIXELS // (height * width)) // size)


def apply_policy(batches: Sequence[Images], policy: str) -> list[Images]:
    """A policy applied to batches of one size together, which saves calls. It is drawn for groups of images.

    Groups have 8 images, of more than 128 images a sixteenth. They are taken in the order of the places in the batches:
    the first images of all batches, then the second ones.
    """
    stacked = torch.stack(list(batches), 1)  # [n, batch, c, H, W]
    images = stacked.flatten(0, 1)
    size = max(GROUP, math.ceil(len(images) / GROUPS))
    changed = torch.cat([POLICIES[policy](group) for group in images.split(size)])
    return list(changed.view_as(stacked).unbind(1))


def random_crop_flip(images: Images, padding: int, flip: bool) -> Images:
    """Shift each image by up to ``padding`` pixels each way (black comes in); with ``flip``, mirror it at random."""
    if not (padding or flip):
        return images
    n, _, H, W = images.shape
    device = images.device
    windows = F.pad(images, (padding,) * 4).unfold(2, H, 1).unfold(3, W, 1)  # views: [n, c, top, left, H, W]
    top, left = torch.randint(2 * padding + 1, (2, n, 1), device=device)[..., 0]
    moved = windows[torch.arange(n, device=device), :, top, left]
    if not flip:
        return moved
    return torch.where(torch.rand(n, 1, 1, 1, device=device) < 0.5, moved.flip(-1), moved)


def make_mixer(mixup: float, cutmix: float, num_classes: int, mix_prob: float = 1.0) -> Mixer | None:
    """Mixup and CutMix of Beta parameter ``mixup`` and ``cutmix`` (0: off), one of the two drawn for each batch.

    With probability 1 - ``mix_prob`` a batch stays as it is. Returns a function of float images and labels to images
    and either (n, num_classes) probabilities or the labels of a batch that is not mixed; None where nothing is mixed.
    """
    named = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    active = [transform(alpha=alpha, num_classes=num_classes) for transform, alpha in named if alpha > 0]
    if not active or not mix_prob:
        return None
    one = v2.RandomChoice(active)
    return one if mix_prob == 1 else v2.RandomApply([one], p=mix_prob)

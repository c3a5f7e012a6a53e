"""Random augmentation of a batch of images on its own device.

All draws come from torch's global generators of the CPU and of the images' device.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torchvision.transforms import v2

from posattn.vision.data.decoding import Images

POLICIES = {"none": None, "trivial": v2.TrivialAugmentWide(), "rand": v2.RandAugment()}
# torchvision draws once per call, and one call per image is too slow, so that groups of images share a draw. 512 images
# of 32 px take 17 ms on an H100 in groups of 8 and 4 ms in groups of 32; without a policy 0.2 ms.
GROUP, GROUPS = 8, 16  # the smallest group, and the groups of a batch of more

Mixer = Callable[
    [Float[Tensor, "n c H W"], Int[Tensor, " n"]], tuple[Float[Tensor, "n c H W"], Shaped[Tensor, "n ..."]]
]


def derived_seed(*numbers: int) -> int:
    """A seed that depends on all of ``numbers`` (not on zeros at the end), without the overlaps of their sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def augment(images: Images, padding: int, flip: bool, policy: str) -> Images:
    """Random crop and mirror image (drawn for each image), then a policy (drawn for each group of images).

    Groups have 8 images, in batches of more than 128 a sixteenth of the batch.
    """
    if padding or flip:
        images = random_crop_flip(images, padding, flip)
    if (transform := POLICIES[policy]) is not None:
        size = max(GROUP, math.ceil(len(images) / GROUPS))
        images = torch.cat([transform(group) for group in images.split(size)])
    return images


def random_crop_flip(images: Images, padding: int, flip: bool) -> Images:
    """Shift each image by up to ``padding`` pixels each way (black comes in); with ``flip``, mirror it at random."""
    n, _, H, W = images.shape
    device = images.device
    windows = F.pad(images, (padding,) * 4).unfold(2, H, 1).unfold(3, W, 1)  # views: [n, c, top, left, H, W]
    top, left = torch.randint(2 * padding + 1, (2, n, 1), device=device)[..., 0]
    moved = windows[torch.arange(n, device=device), :, top, left]
    if not flip:
        return moved
    return torch.where(torch.rand(n, 1, 1, 1, device=device) < 0.5, moved.flip(-1), moved)


def make_mixer(mixup: float, cutmix: float, num_classes: int) -> Mixer | None:
    """Mixup and CutMix of Beta parameter ``mixup`` and ``cutmix`` (0: off), one of the two drawn for each batch.

    Returns a function of float images and labels to mixed images and (n, num_classes) probabilities, None
    where both are off.
    """
    named = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    active = [transform(alpha=alpha, num_classes=num_classes) for transform, alpha in named if alpha > 0]
    return v2.RandomChoice(active) if active else None

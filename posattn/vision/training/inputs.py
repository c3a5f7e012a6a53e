"""The images that a model is trained on."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from posattn import checks
from posattn.vision.data.augment import Mixer, apply_policy, batches_together, random_crop_flip
from posattn.vision.data.decoding import Images
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.modes import evaluating
from posattn.vision.training.config import TrainConfig

Batch = tuple[Images, Int[Tensor, " n"]]


def augmented_together(image_set: ImageSet | ImageStream, batch_size: int, policy: str) -> int:
    """How many batches are augmented together: one without a policy.

    One of a stream, so that workers decode the next ones while a model is trained on one.
    """
    if policy == "none" or isinstance(image_set, ImageStream):
        return 1
    _, height, width = image_set.shape
    return batches_together(batch_size, height, width)


def epoch_batches(
    image_set: ImageSet | ImageStream,
    parts: Sequence[Int[Tensor, " n"]],
    policy: str,
    seed: int,
    draws: Callable[[int], int],
    start: int = 0,
) -> Iterator[Batch]:
    """The images and labels at each of ``parts`` from number ``start`` on, with the augmentation policy applied.

    A policy is applied to ``augmented_together`` parts with draws of the seed ``draws(first)``, where ``first`` is the
    number of the first of them: what a part holds does not depend on ``start``.

    Args:
        image_set: the images.
        parts: the numbers of the images of each batch, as many in each.
        policy: of ``POLICIES``, or ``none``.
        seed: of the crops of a stream.
        draws: seeds of the policy.
        start: the number of the first batch that is wanted.
    """
    if policy == "none":
        yield from image_set.batches(parts[start:], seed)
        return
    together = augmented_together(image_set, len(parts[0]), policy)
    whole = start // together * together
    batches = image_set.batches(parts[whole:], seed)
    for first in range(whole, len(parts), together):
        images, labels = zip(*islice(batches, together), strict=True)
        devices = [images[0].device] if images[0].is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(draws(first))
            changed = apply_policy(images, policy)
        yield from list(zip(changed, labels, strict=True))[max(0, start - first) :]


def prepare(
    images: Images, labels: Int[Tensor, " n"], config: TrainConfig, mixer: Mixer | None
) -> tuple[Float[Tensor, "n c H W"], Shaped[Tensor, "n ..."]]:
    """A training batch: cropped and mirrored at random, as floats, and mixed if there is a mixer."""
    pixels = to_float(random_crop_flip(images, config.padding, config.flip))
    return (pixels, labels) if mixer is None else mixer(pixels, labels)


@torch.no_grad()
def check_fits(model: nn.Module, image_set: ImageSet | ImageStream) -> int:
    """The model's outputs. ValueError if it does not take the set's images, cuts them short or has too few outputs."""
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", None) or (1, 1)
    for side, patch, size in zip(("height", "width"), patch_size, image_set.shape[1:], strict=True):
        checks.divides(f"patch {side}", patch, f"image {side}", size)
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            outputs = model(torch.zeros(1, *image_set.shape, device=device)).shape[-1]
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"the model does not take images of shape {image_set.shape}: {error}") from error
    if outputs < image_set.num_classes:
        raise ValueError(
            f"the model has {outputs} outputs, {image_set.name} has {image_set.num_classes} classes"
        )
    return outputs

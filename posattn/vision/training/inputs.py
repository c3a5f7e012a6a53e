"""The images that a model is trained on."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from posattn import checks
from posattn.vision.data.augment import Mixer, augment
from posattn.vision.data.decoding import Images
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.data.streams import ImageStream
from posattn.vision.modes import evaluating
from posattn.vision.training.config import TrainConfig


def prepare(
    images: Images, labels: Int[Tensor, " n"], config: TrainConfig, mixer: Mixer | None
) -> tuple[Float[Tensor, "n c H W"], Shaped[Tensor, "n ..."]]:
    """A training batch: augmented, as floats, and mixed if there is a mixer."""
    pixels = to_float(augment(images, config.padding, config.flip, config.policy))
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

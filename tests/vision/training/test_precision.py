import pytest
import timm
import torch
from torch import nn

from posattn.vision.training.precision import refuse_wrong_convolutions


def test_a_gradient_that_torch_gets_wrong_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    refuse_wrong_convolutions(model, "cpu", "bfloat16")
    with pytest.raises(
        ValueError, match=r"^1: torch's bfloat16 gradient of a strided convolution over one pixel"
    ):
        model(torch.zeros(2, 4, 2, 2))
    model(torch.zeros(2, 4, 4, 4))
    with torch.no_grad():
        model(torch.zeros(2, 4, 2, 2))


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "bfloat16"), ("cpu", "float32")])
def test_other_devices_and_types_are_left_alone(device: str, dtype: str) -> None:
    model = nn.Conv2d(4, 4, 3, 2, 1)
    refuse_wrong_convolutions(model, device, dtype)
    assert not model._forward_pre_hooks


def test_patch_embeddings_are_left_alone() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1)
    refuse_wrong_convolutions(model, "cpu", "bfloat16")
    assert not any(module._forward_pre_hooks for module in model.modules())

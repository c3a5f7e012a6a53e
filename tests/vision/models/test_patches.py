"""Patches by one matrix product are timm's convolution."""

import copy

import pytest
import timm
import torch
from torch import nn

from posattn.vision.models.patches import PatchProjection, project_patches


@pytest.mark.parametrize(("patch", "size"), [((4, 4), (16, 16)), ((2, 3), (8, 9)), ((4, 3), (11, 10))])
@pytest.mark.parametrize("bias", [True, False])
def test_the_convolution(patch: tuple, size: tuple, bias: bool, generator: torch.Generator) -> None:
    """Outputs and gradients in float64, also where pixels are left over; outputs lie token by token."""
    conv = nn.Conv2d(3, 5, patch, patch, bias=bias).double()
    own = project_patches(copy.deepcopy(conv))
    assert isinstance(own, PatchProjection)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).requires_grad_()
    found, expected = own(x), conv(x)
    torch.testing.assert_close(found, expected)
    assert found.flatten(2).transpose(1, 2).is_contiguous()
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for pair in zip(
        torch.autograd.grad(found, [x, *own.parameters()], weights),
        torch.autograd.grad(expected, [x, *conv.parameters()], weights),
        strict=True,
    ):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 4, "stride": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "groups": 2},
    ],
)
def test_other_convolutions_stay(options: dict) -> None:
    conv = nn.Conv2d(4, 4, **options)
    assert project_patches(conv) is conv
    assert isinstance(project_patches(nn.Identity()), nn.Identity)


def test_models_have_it_under_the_same_names_and_keep_it() -> None:
    options = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_posattn_tiny_patch4_32", **options)
    stock = timm.create_model("vit_tiny_patch16_224", **options)
    assert {n: p.shape for n, p in model.patch_embed.named_parameters()} == {
        n: p.shape for n, p in stock.patch_embed.named_parameters()
    }
    assert isinstance(model.patch_embed.proj, PatchProjection)
    model.set_input_size(img_size=(12, 8), patch_size=4)
    assert isinstance(model.patch_embed.proj, PatchProjection)
    assert model(torch.randn(2, 3, 12, 8)).shape == (2, 3)

"""Patch embedding as a matrix product."""

from typing import no_type_check

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProjection(nn.Conv2d):
    """A convolution over non-overlapping patches, as one matrix product.

    Its outputs are stored patch by patch, as tokens: timm's patch embedding needs no copy, and the residual stream is
    not transposed.
    """

    @no_type_check  # traced and scripted
    def forward(self, x: Tensor) -> Tensor:
        (p, q) = self.kernel_size
        B, C, H, W = x.shape
        rows, columns = H // p, W // q
        x = x[:, :, : rows * p, : columns * q].reshape(B, C, rows, p, columns, q)
        patches = x.permute(0, 2, 4, 1, 3, 5).reshape(B, rows, columns, C * p * q)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def project_patches(conv: nn.Module) -> nn.Module:
    """The same projection with the same parameters as a product if possible, else ``conv`` itself."""
    if type(conv) is not nn.Conv2d or not is_by_patches(conv):
        return conv
    height, width = conv.kernel_size
    same = PatchProjection(
        conv.in_channels, conv.out_channels, (height, width), (height, width), device="meta"
    )
    same.weight, same.bias = conv.weight, conv.bias
    return same


def is_by_patches(conv: nn.Conv2d) -> bool:
    """Whether patches neither overlap nor are cut off."""
    dense = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding == (0, 0)
    return dense and conv.kernel_size == conv.stride

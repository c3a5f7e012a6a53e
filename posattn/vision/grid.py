"""Where the tokens of an image are: distances, neighbours, and what a map is weighed by."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Tokens(NamedTuple):
    """``prefix`` tokens without a place (class token, registers), then ``height`` x ``width`` patches row by row."""

    prefix: int
    height: int
    width: int
    patch_height: float  # in pixels, as patch_width
    patch_width: float

    @property
    def num_patches(self) -> int:
        return self.height * self.width

    @property
    def num_tokens(self) -> int:
        return self.prefix + self.num_patches


def tokens_of(model: nn.Module, image_size: tuple[int, int], num_tokens: int, path: str) -> Tokens:
    """The tokens of a model on images of (H, W) pixels, of which its layer ``path`` has ``num_tokens``.

    Raises:
        TypeError: they are not the patches of a grid after a constant prefix.
    """
    prefix = getattr(model, "num_prefix_tokens", 0)
    height, width = grid_of(model, image_size, num_tokens - prefix)
    if prefix + height * width != num_tokens:
        raise TypeError(
            f"{path} is not supported: it attends over {num_tokens} tokens, "
            f"not over {prefix} and a grid of {height}x{width} patches"
        )
    return Tokens(prefix, height, width, image_size[0] / height, image_size[1] / width)


def grid_of(model: Any, image_size: tuple[int, int], num_patches: int) -> tuple[int, int]:
    """Rows and columns of patches: what the patch embedding says, else a square."""
    embed: Any = getattr(model, "patch_embed", None)
    if hasattr(embed, "dynamic_feat_size"):
        return embed.dynamic_feat_size(image_size)
    side = math.isqrt(num_patches)
    return getattr(embed, "grid_size", None) or (side, side)


def offsets(tokens: Tokens) -> Float[Tensor, "2 D D"]:
    """Rows and columns between every two patches."""
    rows, columns = torch.meshgrid(torch.arange(tokens.height), torch.arange(tokens.width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()]).double()
    return places[:, :, None] - places[:, None, :]


def distances(tokens: Tokens) -> Float[Tensor, "D D"]:
    """Euclidean distance of every two patches, in patches."""
    return offsets(tokens).norm(dim=0)


def neighbourhoods(tokens: Tokens) -> Bool[Tensor, "D D"]:
    """For each patch, itself and the up to eight patches around it."""
    return distances(tokens) < 1.5


def weights(tokens: Tokens, radius: float) -> Float[Tensor, "N N 4"]:
    """What a map is weighed by, for patches that attend to patches: 1, whether within ``radius``, distance in
    patches, distance in pixels. Zero wherever a prefix token takes part."""
    apart = distances(tokens)
    scale = torch.tensor([tokens.patch_height, tokens.patch_width], dtype=torch.double)
    pixels = (offsets(tokens) * scale[:, None, None]).norm(dim=0)
    of_patches = torch.stack([torch.ones_like(apart), (apart <= radius).double(), apart, pixels], -1)
    every = torch.zeros(tokens.num_tokens, tokens.num_tokens, 4, dtype=torch.double)
    every[tokens.prefix :, tokens.prefix :] = of_patches
    return every

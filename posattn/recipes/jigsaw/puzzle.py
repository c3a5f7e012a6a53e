"""One puzzle: what the positional maps of a trained model tell of the layout of its images."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from posattn.shapes import Maps
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.vision.data.images import shuffle_patches
from posattn.vision.jigsaw.assembly import assigned_layout, recover_layout
from posattn.vision.jigsaw.layout import (
    align,
    neighbour_pairs_recovered,
    neighbour_recall,
    partial_correlation,
    positive,
    profile_similarity,
)


def piece_together(
    maps: Float[Tensor, "layers h N N"],
    permutation: Int[Tensor, " N"],
    grid: tuple[int, int],
    tile: int,
    rounds: int = 400,
) -> dict[str, Any]:
    """The layout recovered from the maps of a model, and how much of it is right.

    Args:
        maps: of a model that was given patch ``permutation[j]`` at position j.
        permutation: used to score the result only.
        grid: (H, W) patches.
        tile: side of the neighbourhoods for patch association.
        rounds: of ``recover_layout``.
    """
    similarity = profile_similarity(positive(maps))
    layout = recover_layout(similarity, grid, rounds=rounds)
    embedded = assigned_layout(similarity, grid)
    tiles = Partition.tiles(grid, (tile, tile))
    association = patch_association(in_true_order(maps, permutation), tiles)
    likeness = patch_association(in_true_order(similarity, permutation), tiles)
    return {
        "pairs": neighbour_pairs_recovered(layout, permutation, grid),
        "embedded_pairs": neighbour_pairs_recovered(embedded, permutation, grid),
        "recall": neighbour_recall(similarity, permutation, grid),
        "association": torch.as_tensor(association.top_c).mean().item(),
        "association_chance": torch.as_tensor(association.chance).mean().item(),
        "profile_association": likeness.top_c,
        "profile_chance": likeness.chance,
        "layout": align(layout, permutation, grid).tolist(),
    }


def in_true_order(maps: Maps, permutation: Int[Tensor, " N"]) -> Maps:
    """Maps between positions as maps between the patches that they hold."""
    holder = permutation.argsort()
    return maps[..., holder, :][..., holder]


def patch_brightness(images: Float[Tensor, "n c H W"], patch_size: int) -> Float[Tensor, "samples D"]:
    """The mean of each patch over its pixels, image by image and channel by channel, centred over them."""
    patches = F.avg_pool2d(images, patch_size).flatten(2).flatten(0, 1)
    return patches - patches.mean(0)


def brightness_similarity(pixels: Float[Tensor, "samples D"]) -> Float[Tensor, "D D"]:
    """The partial correlation of the patches' brightness; 0 for a patch that is the same in every image."""
    varies = (pixels != pixels[0]).any(0)
    similarity = pixels.new_zeros(len(varies), len(varies))
    similarity[varies[:, None] & varies] = partial_correlation(pixels[:, varies]).flatten()
    return similarity


def puzzle_tensors(
    maps: Float[Tensor, "layers h N N"],
    permutation: Int[Tensor, " N"],
    layout: Int[Tensor, " N"],
    size: int,
    images: UInt8[Tensor, "n c H W"],
) -> dict[str, Tensor]:
    """The tensors of the page.

    ``pictures`` (stages, n, c, H, W): images before shuffling, as the model saw them, and put back together.
    ``similarity`` (2, N, N): likeness of profiles and mean attention between patches in true order.
    """
    seen = shuffle_patches(images, size, permutation)
    restored = shuffle_patches(seen, size, layout.argsort())
    likeness = in_true_order(profile_similarity(positive(maps)), permutation).fill_diagonal_(0).clamp_(min=0)
    attention = in_true_order(maps, permutation).double().mean((0, 1))
    return {
        "pictures": torch.stack([images, seen, restored]),
        "similarity": torch.stack([likeness, attention]),
    }

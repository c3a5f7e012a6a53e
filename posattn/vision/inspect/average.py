"""Measures of a layer's average map: how much of the attention it explains, and its structure."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from posattn.shapes import Maps
from posattn.structure.association import own_share_of_largest, recover_partition
from posattn.vision.inspect.sums import LayerSums

AVERAGE_MEASURES = ("positionality", "association", "profile_association")
ENTRIES = 2**21  # of the average maps that are measured at once: what the cache holds
PROFILES = 256  # patches whose profiles are compared with all others: time grows as D³ with all of them
STABLE = 0.8  # agreement of two halves of the images from which a recovered partition counts as stable


def estimator(
    sums: LayerSums, own: Bool[Tensor, "D D"] | None
) -> Callable[[Sequence[int]], Float[Tensor, "3 h"]]:
    """The function that gives ``AVERAGE_MEASURES`` of the images of some groups; without sets, associations are NaN."""
    products = sums.products()

    def estimate(groups: Sequence[int]) -> Tensor:
        chosen, images = list(groups), sums.images_in(groups)
        among, total = products[:, chosen][..., chosen], sums.total(groups)
        if sums.windowed:
            share = grouped_share(among, total, sums.values.in_group[chosen])
        else:
            share = explained_share(among.sum((-1, -2)) / images**2, total, images)
        return torch.stack([share, *associations(sums, own, groups)])

    return estimate


def associations(
    sums: LayerSums, own: Bool[Tensor, "D D"] | None, groups: Sequence[int]
) -> Float[Tensor, "2 h"]:
    """``association`` and ``profile_association`` of the average over some groups, a few heads at a time."""
    h, Q, K = sums.maps.shape[1:]
    if own is None:
        return torch.full((2, h), torch.nan, dtype=torch.double)
    prefix, found = sums.layout.keys.prefix, []
    for first in range(0, h, step := max(1, ENTRIES // (Q * K))):
        maps = sums.average(groups, slice(first, first + step))[:, prefix:, prefix:]
        found.append(torch.stack([association(maps, own), profile_association(maps, own)]).double())
    return torch.cat(found, 1)


def positionality(
    maps: Float[Tensor, "h Q K"], total: Float[Tensor, " h"], images: float
) -> Float[Tensor, " h"]:
    """The share of the attention's variance over images and entries that its average map explains.

    ``ρ = |E S - 1/K|² / E |S - 1/K|²``, the norm over all entries of a head's maps S, 1/K being the mean of
    the entries of every map over K keys: in [0, 1], 1 where all images have one map. With the average over n images in
    place of E S it would be too large by about (1 - ρ)/n: the share of noise, estimated from the spread over
    images, is taken off, so that an estimate may fall slightly below 0.

    Args:
        maps: averages over n images.
        total: the mean over images of ``|S - 1/K|²``.
        images: n; of a single one all is explained.
    """
    return explained_share(
        (maps - 1 / maps.shape[-1]).flatten(1).norm(dim=1).cpu().double() ** 2, total, images
    )


def explained_share(
    explained: Float[Tensor, " h"], total: Float[Tensor, " h"], images: float
) -> Float[Tensor, " h"]:
    """``positionality`` by the squared norm ``|E S - 1/K|²`` of the average over n images, with its noise."""
    within = (total - explained) * (images / max(images - 1, 1))
    explained = explained - within / images
    return torch.where(total > 0, explained / (explained + within), 1.0)


def grouped_share(
    products: Float[Tensor, "h G G"], total: Float[Tensor, " h"], in_group: Float[Tensor, " G"]
) -> Float[Tensor, " h"]:
    """``positionality`` of the average over the windows of n images, which are not independent within an image.

    The noise is estimated from the spread over G groups of images; with a single one none is taken off.

    Args:
        products: <M_g, M_g'> of the sums M_g over each group of the mean of ``S - 1/K`` over an image's windows.
        total: the mean over images and windows of ``|S - 1/K|²``.
        in_group: the images of each group.
    """
    images = in_group.sum()
    explained = products.sum((-1, -2)) / images**2
    apart = (products.diagonal(dim1=-2, dim2=-1) / in_group).sum(-1) - images * explained
    noise = apart / max(len(in_group) - 1, 1) / images
    return torch.where(total > 0, (explained - noise) / total, 1.0)


def association(maps: Maps, own: Bool[Tensor, "D D"]) -> Float[Tensor, "*h"]:
    """Mean over patches of the share of their largest entries that lie in their own set, as many as it has.

    Patches in no set are excluded.
    """
    return own_share_of_largest(maps, own)[..., own.any(-1)].mean(-1)


def profile_association(maps: Maps, own: Bool[Tensor, "D D"]) -> Float[Tensor, "*h"]:
    """The same for the nearest patches by attention profile, a patch itself left aside.

    The profile of a patch is its row and its column of the log-attention, from which the means of every row
    and column are taken off; nearness is the cosine. Entries below the type's smallest normal number (1e-38 in
    float32) count as it. Of more than ``PROFILES`` patches with company, evenly spaced ones are taken. NaN where all
    sets are single patches.
    """
    accompanied = (own.sum(-1) > 1).nonzero().flatten()
    if not len(accompanied):
        return maps.new_full(maps.shape[:-2], torch.nan)
    log = maps.clamp(min=torch.finfo(maps.dtype).tiny).log_()
    log -= log.mean(-1, keepdim=True)
    log -= log.mean(-2, keepdim=True)
    squares = log.square()
    lengths = (squares.sum(-1) + squares.sum(-2)).sqrt().clamp(min=torch.finfo(maps.dtype).tiny)
    chosen = accompanied[:: math.ceil(len(accompanied) / PROFILES)]
    near = log[..., chosen, :] @ log.mT + log.mT[..., chosen, :] @ log  # the row's own length orders nothing
    near /= lengths[..., None, :]
    itself = torch.eye(maps.shape[-1], dtype=torch.bool)[chosen]
    return own_share_of_largest(near.masked_fill_(itself, -torch.inf), own[chosen] & ~itself).mean(-1)


def chance(own: Bool[Tensor, "D D"], itself: bool) -> float:
    """The chance level of ``association`` (or of ``profile_association``, which excludes the patch itself)."""
    D, sizes = len(own), own.sum(-1).double()
    return (sizes[sizes > 0].mean() / D if itself else (sizes[sizes > 1] - 1).mean() / (D - 1)).item()


def without_each(
    estimate: Callable[[Sequence[int]], Float[Tensor, "k h"]], groups: Sequence[int]
) -> Float[Tensor, "G k h"]:
    """``estimate`` without each group of images in turn; NaN for fewer than three groups."""
    if len(groups) < 3:
        return torch.full_like(estimate(groups), torch.nan).expand(len(groups), -1, -1)
    return torch.stack([estimate([g for g in groups if g != left]) for left in groups])


def jackknife_error(without: Float[Tensor, "G k h"]) -> Float[Tensor, "k h"]:
    """The standard error of an estimate, from its values without each of G groups in turn.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 11.
    """
    G = len(without)
    return ((G - 1) / G * ((without - without.mean(0)) ** 2).sum(0)).sqrt()


def recovered_sets(sums: LayerSums, num_sets: int) -> tuple[Int[Tensor, "h D"], Float[Tensor, " h"]]:
    """The sets that each head's average map shows, and whether other images would show them.

    Returns:
        The set 0..L-1 of each patch, and the adjusted Rand index between what each half of the images shows
        by itself: 1 the same sets, 0 as two random partitions; ``STABLE`` or more counts as stable.
    """
    prefix = sums.layout.keys.prefix
    groups = sums.values.groups
    found = [
        recover_partition(sums.average(part)[:, prefix:, prefix:], num_sets)
        for part in (groups, groups[::2], groups[1::2])
    ]
    halves = zip(found[1].tolist(), found[2].tolist(), strict=True)
    return found[0], torch.tensor([adjusted_rand_score(*pair) for pair in halves])

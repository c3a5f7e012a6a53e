"""Attention by offset: constant maps whose entries among patches depend on the offset between the patches.

S_ij = r_i w(j - i) / Σ_j' w(j' - i) + c_ij. Patch i gives the mass r_i to patches by their offset, and c_ij to prefix
tokens (class token, registers) and, with ``far``, to all patches alike. Prefix tokens keep their own rows.
"""

import math
from typing import NamedTuple, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from posattn.vision.models.attention import MapsHNN
from posattn.vision.models.scores import Grid, resample_keys

ROUNDS = 50  # of the fit


class OnOneGrid(NamedTuple):
    """Offset maps on one grid."""

    kernel: Float[Tensor, "p kh kw"]  # log w; kh = 2a + 1 for offsets of -a to a rows
    prefix_rows: Float[Tensor, "p P N"]  # rows of the prefix tokens
    # of each patch: to prefix tokens, to all patches alike (with far), by offset
    shares: Float[Tensor, "p D K"]


class OffsetMaps(nn.Module):
    """Maps of p heads by offset, on a grid of their own, resampled to any other grid when they are used.

    Args:
        num_heads: p.
        grid: the grid that the parameters are for.
        window: (kh, kw), odd, of the offsets with a weight; None for all offsets of the grid.
        far: a share of the attention goes to all patches alike.
    """

    def __init__(
        self, num_heads: int, grid: Grid, window: tuple[int, int] | None = None, far: bool = False
    ) -> None:
        super().__init__()
        D = grid.height * grid.width
        kernel = window or (2 * grid.height - 1, 2 * grid.width - 1)
        self.own_grid, self.far, self.whole = grid, far, window is None
        self.kernel = nn.Parameter(torch.zeros(num_heads, *kernel))  # log w
        # log, up to a constant
        self.prefix_rows = nn.Parameter(torch.zeros(num_heads, grid.prefix, grid.num_tokens))
        # log-odds to what goes by offset
        self.columns = nn.Parameter(torch.zeros(num_heads, D, grid.prefix + far))

    @no_type_check  # traced
    def on(self, size: tuple[int, int]) -> OnOneGrid:
        """The parameters on a grid of ``size`` patches, resampled bilinearly where it is another."""
        kernel, rows, columns = self.kernel, self.prefix_rows, self.columns
        odds = torch.cat([columns, columns.new_zeros(*columns.shape[:2], 1)], 2)  # the last: by offset
        if size != self.own_grid.size:
            old, new = self.own_grid, Grid(*size, self.own_grid.prefix)
            kernel, rows = resized(kernel, self.window_on(new)), resampled_rows(rows, old, new)
            images = odds.mT.unflatten(2, old.size).flatten(0, 1)
            odds = resized(images, size).flatten(1).unflatten(0, (len(kernel), -1)).mT
        return OnOneGrid(kernel, rows.softmax(-1), odds.softmax(-1))

    def window_on(self, grid: Grid) -> tuple[int, int]:
        """The window on another grid: offsets scale with the image."""
        if self.whole:
            return 2 * grid.height - 1, 2 * grid.width - 1
        own = zip(self.kernel.shape[1:], grid.size, self.own_grid.size, strict=True)
        height, width = (2 * max(k > 1, round(k // 2 * new / old)) + 1 for k, new, old in own)
        return height, width

    @no_type_check  # traced
    def dense(self, size: tuple[int, int]) -> MapsHNN:
        """(p, N, N) maps on a grid, rows sum to 1."""
        kernel, rows, shares = self.on(size)
        height, width = size
        pad_rows, pad_columns = height - 1 - kernel.shape[1] // 2, width - 1 - kernel.shape[2] // 2
        table = F.pad(kernel, (pad_columns, pad_columns, pad_rows, pad_rows), value=-torch.inf)
        windows = table.unfold(1, height, 1).unfold(2, width, 1)  # [p, a, b, k, l] = table[p, a + k, b + l]
        scores = windows.flip(1, 2).reshape(-1, height * width, height * width)
        patches = scores.softmax(-1) * shares[..., -1:]
        prefix = self.own_grid.prefix
        if self.far:
            patches = patches + shares[..., prefix : prefix + 1] / (height * width)
        return torch.cat([rows, torch.cat([shares[..., :prefix], patches], 2)], 1)


def resampled_rows(rows: Float[Tensor, "p P N"], old: Grid, new: Grid) -> Float[Tensor, "p P N2"]:
    """Rows of log-attention on another grid, which keep the mass that falls on the patches together."""
    if not old.prefix:
        return rows.new_zeros(len(rows), 0, new.num_tokens)
    denser = math.log(old.height * old.width / (new.height * new.width))
    prefix, patches = resample_keys(rows, old, new).tensor_split([new.prefix], dim=2)
    return torch.cat([prefix, patches + denser], 2)


def resized(values: Float[Tensor, "a b c"], size: tuple[int, int]) -> Float[Tensor, "a h w"]:
    """Bilinear, ends on ends; a single row or column is the middle one."""
    for axis, side in enumerate(size, 1):
        if side == 1:  # align_corners would take the first
            length = values.shape[axis]
            values = values.narrow(axis, (length - 1) // 2, 2 - length % 2).mean(axis, keepdim=True)
    return F.interpolate(values[None], size, mode="bilinear", align_corners=True)[0]


@torch.no_grad()
def fit_offsets(
    maps: Float[Tensor, "p N N"], grid: Grid, window: tuple[int, int] | None = None, far: bool = False
) -> OffsetMaps:
    """The offset maps nearest to dense ones, in Kullback-Leibler divergence of the rows among patches.

    Where the maps are of this form the fit is within 1e-6; with ``far``, if the window leaves some patch out for every
    patch. Narrow weights apart from the centre converge slowly, by ROUNDS: an entry is within 0.01 where they are one
    patch away, 0.04 at two, 0.07 at three, 0.2 at four rows and four columns. The largest errors are of patches whose
    goal is beyond the border. The weights are found by minorisation-maximisation.
    Source: Hunter, MM algorithms for generalized Bradley-Terry models, Annals of Statistics 2004.

    Args:
        maps: rows sum to 1.
        grid: what the tokens are.
        window: (kh, kw), odd and at most (2H - 1, 2W - 1); None for all offsets.
        far: mass beyond the window is spread evenly over all patches.
    """
    maps, prefix, size = maps.cpu().double().clamp(min=0), grid.prefix, grid.size
    fitted = OffsetMaps(len(maps), grid, window, far).to(maps)
    kernel = (fitted.kernel.shape[1], fitted.kernel.shape[2])
    among = maps[:, prefix:, prefix:]
    patches = among.sum(-1)
    even = spread_evenly(among, size, kernel) if far else torch.zeros_like(patches)
    near = (among - even[..., None] / (size[0] * size[1])).clamp(min=0)
    weights = offset_weights(near, size, kernel)
    by_offset = (patches - even).clamp(min=0)
    columns = torch.cat([maps[:, prefix:, :prefix], *([even[..., None]] if far else [])], 2)
    fitted.kernel.copy_(log(weights / weights.amax((1, 2), keepdim=True)))
    fitted.prefix_rows.copy_(log(maps[:, :prefix]))
    fitted.columns.copy_(log(columns) - log(by_offset)[..., None])
    return fitted


def spread_evenly(
    among: Float[Tensor, "p D D"], size: tuple[int, int], kernel: tuple[int, int]
) -> Float[Tensor, "p D"]:
    """Of each patch, the mass to spread over all patches so that those beyond the window get what they had."""
    outside = ~within(size, kernel, among.device)
    beyond, count = (among * outside).sum(-1), outside.sum(-1)
    even = beyond / count.clamp(min=1) * among.shape[-1]
    return torch.minimum(even, among.sum(-1))


def within(size: tuple[int, int], kernel: tuple[int, int], device: torch.device) -> Bool[Tensor, "D D"]:
    """Whether the offset of each pair of patches is in a (kh, kw) window."""
    index = torch.arange(size[0] * size[1], device=device)
    near = [
        (places[None] - places[:, None]).abs() <= width // 2
        for places, width in zip((index // size[1], index % size[1]), kernel, strict=True)
    ]
    return near[0] & near[1]


def by_offset(among: Float[Tensor, "p D D"], size: tuple[int, int]) -> Float[Tensor, "p U V"]:
    """Sums of the entries of each offset, (2H - 1, 2W - 1) of them."""
    height, width = size
    index = torch.arange(height * width, device=among.device)
    rows, columns = index // width, index % width
    down = rows[None] - rows[:, None] + height - 1
    right = columns[None] - columns[:, None] + width - 1
    sums = among.new_zeros(len(among), (2 * height - 1) * (2 * width - 1))
    sums.index_add_(1, (down * (2 * width - 1) + right).flatten(), among.flatten(1))
    return sums.unflatten(1, (2 * height - 1, 2 * width - 1))


def windowed(table: Float[Tensor, "p U V"], kernel: tuple[int, int]) -> Float[Tensor, "p kh kw"]:
    """The middle of a table of offsets."""
    top, left = (table.shape[1] - kernel[0]) // 2, (table.shape[2] - kernel[1]) // 2
    return table[:, top : top + kernel[0], left : left + kernel[1]]


def offset_weights(
    near: Float[Tensor, "p D D"], size: tuple[int, int], kernel: tuple[int, int]
) -> Float[Tensor, "p kh kw"]:
    """w, of greatest likelihood: each row of ``near`` within the window is a sample of its offsets."""
    near = near * within(size, kernel, near.device)
    wanted = windowed(by_offset(near, size), kernel)
    mass = near.sum(-1).unflatten(1, size)
    pad = (kernel[0] // 2, kernel[1] // 2)
    ones = near.new_ones(1, len(near), *size)
    around = F.pad(ones, (pad[1], pad[1], pad[0], pad[0]))
    tiny = 1e-100
    weights = wanted + tiny
    for _ in range(ROUNDS):
        total = F.conv2d(ones, weights[:, None], padding=pad, groups=len(near))[0]
        offered = F.conv2d(around, (mass / total)[:, None], groups=len(near))[0]
        weights = wanted / offered.clamp(min=tiny)
        weights = weights / weights.amax((1, 2), keepdim=True).clamp(min=tiny) + tiny
    return weights


def log(values: Tensor) -> Tensor:
    """The logarithm, of zeros what a single-precision softmax still takes for 0."""
    return values.clamp(min=1e-30).log()

"""Scores of positional attention, from query positions to key positions, for every head.

N = prefix + H·W tokens: class token and registers first, then the grid row by row. A score module maps the
shared positional encodings P, or None if it owns all it needs, to (h, N, N) scores.
"""

import math
from typing import Any, NamedTuple, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from posattn import checks
from posattn.vision.grid import Grid


class Start(NamedTuple):
    """How random scores start."""

    std: float = 1.0  # standard deviation of the scores
    diagonal: float = 0.0  # σ_A, the offset of a token's score on itself


class OnGrid(nn.Module):
    """A module whose own parameters depend on the grid of tokens."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def resample(self, name: str, value: Tensor, old: Grid, new: Grid) -> Tensor:
        """The parameter ``name`` of grid ``old`` on grid ``new``."""
        return value

    @torch.no_grad()
    def set_grid(self, grid: Grid) -> None:
        """Resample the parameters, bicubically, to another grid; prefix tokens stay as they are."""
        for name, old in list(self.named_parameters(recurse=False)):
            values = self.resample(name, old, self.grid, grid).clone(memory_format=torch.contiguous_format)
            setattr(self, name, nn.Parameter(values, requires_grad=old.requires_grad))
        self.grid = grid


class PositionEncodings(OnGrid):
    """P, the (N, m) positional encodings that all layers share; standard normal at the start."""

    def __init__(self, grid: Grid, dim: int, **dd: Any) -> None:
        super().__init__(grid)
        self.weight = nn.Parameter(torch.empty(grid.num_tokens, dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    init_weights = reset_parameters  # timm initialises by this name, or by the other

    def resample(self, name: str, value: Tensor, old: Grid, new: Grid) -> Tensor:
        return resample_abs_pos_embed(value[None], new.size, old.size, num_prefix_tokens=old.prefix)[0]

    def fuse(self) -> nn.Module:
        """For timm's ``reparameterize_model``: constant maps need no encodings."""
        return nn.Identity()


class EncodingScores(OnGrid):
    """A^h = (P W_Q^h)(P W_K^h)ᵀ / √d_h, the paper's parametrisation.

    ``norm_layer`` normalises queries and keys per head (timm's qk_norm). A start with σ_A > 0 ties W_K to W_Q,
    which puts A_ii near σ_A, and the others, whatever ``std`` says, σ_A/√d_h around 0.
    """

    def __init__(
        self, grid: Grid, dim: int, num_heads: int, start: Start, norm_layer: Any = None, **dd: Any
    ) -> None:
        super().__init__(grid)
        self.num_heads, self.start = num_heads, start
        self.head_dim = checks.divides("num_heads", num_heads, "dim", dim)
        self.query = nn.Parameter(torch.empty(dim, dim, **dd))
        self.key = nn.Parameter(torch.empty(dim, dim, **dd))
        self.q_norm = norm_layer(self.head_dim, **dd) if norm_layer else nn.Identity()
        self.k_norm = norm_layer(self.head_dim, **dd) if norm_layer else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        std, diagonal = self.start
        variance = diagonal / math.sqrt(self.head_dim) if diagonal else std
        for weight in (self.query, self.key):
            nn.init.normal_(weight, std=math.sqrt(variance / weight.shape[1]))
        if diagonal:
            with torch.no_grad():
                self.key.copy_(self.query)

    init_weights = reset_parameters

    @no_type_check  # traced and scripted
    def forward(self, positions: Tensor | None) -> Tensor:
        assert positions is not None  # said for TorchScript
        positions = positions.to(self.query.device)  # replicas of nn.DataParallel share the first one's
        query, key = self.split(F.linear(positions, self.query)), self.split(F.linear(positions, self.key))
        return self.q_norm(query) @ self.k_norm(key).transpose(1, 2) * self.head_dim**-0.5

    @no_type_check
    def split(self, x: Tensor) -> Tensor:
        """(N, D) as (h, N, d_h)."""
        return x.view(-1, self.num_heads, self.head_dim).transpose(0, 1)


class RelativeScores(OnGrid):
    """A_ij = T^h[offset of j from i]: a (h, 2H-1, 2W-1) table per layer.

    A prefix token has no place: as a query it has a row of its own, as a key one score for all patches of a
    head.
    """

    def __init__(self, grid: Grid, dim: int, num_heads: int, start: Start, **dd: Any) -> None:
        super().__init__(grid)
        self.start = start
        self.table = nn.Parameter(torch.empty(num_heads, 2 * grid.height - 1, 2 * grid.width - 1, **dd))
        self.prefix_rows = self.prefix_columns = None
        if grid.prefix:
            self.prefix_rows = nn.Parameter(torch.empty(num_heads, grid.prefix, grid.num_tokens, **dd))
            self.prefix_columns = nn.Parameter(torch.empty(num_heads, 1, grid.prefix, **dd))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        std, diagonal = self.start
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=std)
        self.table[:, self.grid.height - 1, self.grid.width - 1] += diagonal
        if self.prefix_rows is not None:
            self.prefix_rows.diagonal(dim1=1, dim2=2).add_(diagonal)

    init_weights = reset_parameters

    @no_type_check  # traced and scripted
    def forward(self, positions: Tensor | None = None) -> Tensor:
        height, width, _ = self.grid
        windows = self.table.unfold(1, height, 1).unfold(2, width, 1)  # [h, a, b, k, l] = T[h, a + k, b + l]
        scores = windows.flip(1, 2).reshape(-1, height * width, height * width)
        if self.prefix_rows is None:
            return scores
        columns = self.prefix_columns.expand(-1, height * width, -1)
        return torch.cat([self.prefix_rows, torch.cat([columns, scores], 2)], 1)

    def resample(self, name: str, value: Tensor, old: Grid, new: Grid) -> Tensor:
        if name == "table":
            return resample_offsets(value, new)
        return resample_keys(value, old, new) if name == "prefix_rows" else value


class TableScores(OnGrid):
    """A free (h, N, N) table per layer."""

    def __init__(self, grid: Grid, dim: int, num_heads: int, start: Start, **dd: Any) -> None:
        super().__init__(grid)
        self.start = start
        self.table = nn.Parameter(torch.empty(num_heads, grid.num_tokens, grid.num_tokens, **dd))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        std, diagonal = self.start
        nn.init.normal_(self.table, std=std)
        self.table.diagonal(dim1=1, dim2=2).add_(diagonal)

    init_weights = reset_parameters

    @no_type_check  # traced and scripted
    def forward(self, positions: Tensor | None = None) -> Tensor:
        return self.table

    def resample(self, name: str, value: Tensor, old: Grid, new: Grid) -> Tensor:
        keys = resample_keys(value, old, new)
        return resample_keys(keys.transpose(1, 2), old, new).transpose(1, 2)


SCORES = {"encodings": EncodingScores, "relative": RelativeScores, "table": TableScores}


def resample_offsets(table: Float[Tensor, "h U V"], new: Grid) -> Float[Tensor, "h U2 V2"]:
    """A table of offsets that scale with the image: its centre stays the centre, its ends the ends."""
    size = (2 * new.height - 1, 2 * new.width - 1)
    for axis, side in enumerate(size, 1):
        if side == 1:  # align_corners would take the first offset
            table = table.narrow(axis, table.shape[axis] // 2, 1)
    scaled = F.interpolate(table[None].float(), size, mode="bicubic", align_corners=True)
    return scaled[0].to(table.dtype)


def resample_keys(rows: Float[Tensor, "h Q N"], old: Grid, new: Grid) -> Float[Tensor, "h Q N2"]:
    """Rows of scores on the keys of another grid."""
    prefix, patches = rows.split([old.prefix, old.height * old.width], dim=2)
    images = patches.float().unflatten(2, old.size)
    if new.width == 1:  # torch's antialias is wrong where a single column comes out of another number of rows
        scaled = F.interpolate(images.mT, new.size[::-1], mode="bicubic", antialias=True).mT
    else:
        scaled = F.interpolate(images, new.size, mode="bicubic", antialias=True)
    return torch.cat([prefix, scaled.flatten(2).to(rows.dtype)], 2)

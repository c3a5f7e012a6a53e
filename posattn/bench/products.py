"""Products of pruned maps and values in torch's sparse formats, side by side with the dense product.

``python -m posattn.bench.products --keep 16 --dtype float32`` prints the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from posattn.bench.models import DTYPES
from posattn.bench.timing import interleaved, quartiles
from posattn.runs.device import full_name
from posattn.vision.models.freeze import largest

Work = Callable[[], Tensor]
MapsHNN = Float[Tensor, "h N N"]
Columns = Float[Tensor, "h N c"]


def local_maps(side: int, heads: int, width: float) -> MapsHNN:
    """Maps that are a Gaussian of ``width`` patches around each query, on a square grid."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    maps = (-torch.cdist(places, places).square() / (2 * width**2)).softmax(-1)
    return maps.where(maps > torch.finfo().tiny, 0).repeat(heads, 1, 1)


def tiles(side: int, tile: int) -> Int[Tensor, " N"]:
    """The tokens of a square grid tile by tile."""
    places = torch.arange(side * side).view(side // tile, tile, side // tile, tile)
    return places.transpose(1, 2).flatten()


def dense(maps: MapsHNN, columns: Columns) -> Work:
    """The dense product."""
    return lambda: maps @ columns


def gathered(maps: MapsHNN, columns: Columns) -> Work:
    """Weighted sums of rows by ``embedding_bag``, which pruned models use where it is fastest."""
    weights, keys = largest(maps.float(), int((maps > 0).sum(-1).max()))
    keys = keys + maps.shape[1] * torch.arange(len(maps))[:, None, None]
    bags, weights, rows = keys.flatten(0, 1), weights.to(maps.dtype).flatten(0, 1), columns.flatten(0, 1)
    return lambda: F.embedding_bag(bags, rows, per_sample_weights=weights, mode="sum").view_as(columns)


def csr(maps: MapsHNN, columns: Columns) -> Work:
    """torch's compressed sparse rows (CSR)."""
    sparse = [one.to_sparse_csr() for one in maps]
    return lambda: torch.stack([one @ column for one, column in zip(sparse, columns, strict=True)])


def bsr(maps: MapsHNN, columns: Columns, block: int) -> Work:
    """torch's block compressed sparse rows (BSR)."""
    sparse = [one.to_sparse_bsr((block, block)) for one in maps]
    return lambda: torch.stack([one @ column for one, column in zip(sparse, columns, strict=True)])


def gathered_blocks(maps: MapsHNN, columns: Columns, block: int) -> Work:
    """One batched product over the nonzero blocks, with each row of blocks padded to the widest."""
    h, N, c = columns.shape
    n = N // block
    blocks = maps.view(h, n, block, n, block).transpose(2, 3)
    filled = (blocks > 0).any(-1).any(-1).int()
    chosen = filled.argsort(-1, descending=True)[..., : int(filled.sum(-1).max())]
    kept = blocks.gather(2, chosen[..., None, None].expand(-1, -1, -1, block, block))
    left = kept.transpose(2, 3).reshape(h * n, block, -1)
    rows = (chosen + n * torch.arange(h)[:, None, None]).flatten()
    right = columns.view(h * n, block, c)
    return lambda: (left @ right.index_select(0, rows).view(h * n, -1, c)).view(h, N, c)


def banded(maps: MapsHNN, columns: Columns, rows: int) -> Work:
    """One product per ``rows`` consecutive queries, over the band of keys that holds all kept entries."""
    _, queries, keys = maps.nonzero(as_tuple=True)
    reach = int((queries - keys).abs().max())
    wide = rows + 2 * reach
    padded = F.pad(maps, (reach, reach))
    left = torch.stack([padded[:, i : i + rows, i : i + wide] for i in range(0, maps.shape[1], rows)], 1)
    left = left.contiguous()

    def work() -> Tensor:
        windows = F.pad(columns, (0, 0, reach, reach)).unfold(1, wide, rows).transpose(2, 3)
        return torch.stack([a @ b for a, b in zip(left, windows, strict=True)]).view_as(columns)

    return work


def flex(maps: MapsHNN, columns: Columns, block: int) -> Work:
    """FlexAttention with a block mask; the scores are the logarithm of the maps, queries and keys are zero."""
    h, N, _ = maps.shape
    kept, scores = maps > 0, maps.float().log()
    mask = create_block_mask(lambda b, i, q, k: kept[i, q, k], None, h, N, N, device="cpu", BLOCK_SIZE=block)
    nothing = columns.new_zeros(1, h, N, 16)
    attention = torch.compile(flex_attention)

    def work() -> Tensor:
        return attention(
            nothing,
            nothing,
            columns[None],
            score_mod=lambda score, b, i, q, k: score + scores[i, q, k],
            block_mask=mask,
        )[0]

    return work


def forms(maps: MapsHNN, columns: Columns, side: int) -> dict[str, Work]:
    """Each product by name. Block formats order the tokens in square tiles, values and outputs too.

    torch multiplies compressed rows in float32, not in bfloat16.
    """
    found = {
        "dense": dense(maps, columns),
        "gathered (embedding_bag)": gathered(maps, columns),
        "banded, 4 rows of the grid a run": banded(maps, columns, 4 * side),
    }
    compressed = maps.dtype == torch.float32
    if compressed:
        found["compressed rows"] = csr(maps, columns)
    for tile in (4, 8):
        order, block = tiles(side, tile), tile * tile
        tiled = maps[:, order][:, :, order], columns[:, order]
        found[f"{tile}x{tile} tiles, blocks gathered"] = gathered_blocks(*tiled, block)
        if compressed:
            found[f"{tile}x{tile} tiles, compressed rows of blocks"] = bsr(*tiled, block)
    found["8x8 tiles, FlexAttention"] = flex(*tiled, block)
    return found


@dataclass(frozen=True)
class Pruned:
    """Settings: maps are local around each query, and each query keeps its largest entries."""

    keep: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    width: float = 2.0
    """Patches; standard deviation of the maps around a query's place"""
    side: int = 32
    """Patches; 32 is 512 px"""
    heads: int = 3
    head_dim: int = 64
    batch: int = 3
    rounds: int = 15
    seed: int = 0


@torch.no_grad()
def timed(config: Pruned) -> dict[str, list[float]]:
    """Seconds of each product, interleaved."""
    torch.manual_seed(config.seed)
    weights, keys = largest(local_maps(config.side, config.heads, config.width), config.keep)
    tokens = config.side**2
    maps = weights.new_zeros(config.heads, tokens, tokens).scatter(2, keys, weights)
    columns = torch.randn(config.heads, tokens, config.batch * config.head_dim)
    dtype = DTYPES[config.dtype]
    return interleaved(forms(maps.to(dtype), columns.to(dtype), config.side), config.rounds)


def main() -> None:
    """Print the medians and quartiles, in milliseconds."""
    config = tyro.cli(Pruned)
    print(config, full_name("cpu"))
    for name, seconds in timed(config).items():
        median, low, high = (1000 * value for value in quartiles(seconds))
        print(f"{name:44s} {median:8.2f} ms ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()

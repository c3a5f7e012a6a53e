"""Which heads of a model are converted, and how each is kept."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posattn import checks
from posattn.vision.convert.heads import KINDS, TABLE
from posattn.vision.convert.layers import count_heads

Heads = Mapping[int, Sequence[int]]  # block number to heads
Kinds = Mapping[int, Mapping[int, str]]  # block number to heads, each with how it is kept
WINDOW = 9  # rows and columns of offsets of a convolution


def chosen_heads(
    layers: Mapping[int, Any],
    blocks: Sequence[int] | None,
    heads: Heads | Kinds | Sequence[int] | None,
    kind: str = TABLE,
) -> dict[int, dict[int, str]]:
    """The heads to convert of every block to convert, each with how it is kept."""
    if isinstance(heads, Mapping):
        if blocks is not None:
            raise ValueError(f"heads names its blocks already, got blocks={list(blocks)} besides")
        blocks = list(heads)
    if isinstance(blocks, int):
        raise TypeError(f"blocks must be a list of numbers, got {blocks}")
    blocks = list(layers) if blocks is None else blocks
    return {number: heads_of(layers, number, heads, kind) for number in blocks}


def heads_of(
    layers: Mapping[int, Any], number: int, heads: Heads | Kinds | Sequence[int] | None, kind: str
) -> dict[int, str]:
    """The heads to convert of block ``number``, checked, each with how it is kept."""
    if checks.natural("block", number) not in layers:
        raise ValueError(
            f"block {number} has no attention to convert; content-based are blocks: {listed(layers)}"
        )
    count = count_heads(layers[number])
    wanted = heads[number] if isinstance(heads, Mapping) else heads
    if isinstance(wanted, int):
        raise TypeError(f"heads must be a list of numbers, got {wanted}")
    chosen = with_kinds(range(count) if wanted is None else wanted, kind)
    for head, own in chosen.items():
        if isinstance(head, bool) or head not in range(count):
            raise ValueError(f"block {number} has heads 0..{count - 1}, got {head}")
        checks.known("kind", own, KINDS)
    return chosen


def listed(numbers: Iterable[int]) -> str:
    """Numbers as text."""
    return ", ".join(map(str, numbers)) or "none"


def with_kinds(heads: Sequence[int] | Mapping[int, str], kind: str = TABLE) -> dict[int, str]:
    """Each head with its kind; default: ``table``."""
    return dict(sorted(heads.items())) if isinstance(heads, Mapping) else dict.fromkeys(sorted(heads), kind)


def check_window(window: int) -> None:
    """Raise ValueError for a window that is not odd and positive."""
    if checks.positive_int("window", window) % 2 == 0:
        raise ValueError(f"window must be odd, got {window}")

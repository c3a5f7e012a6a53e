"""The settings of `posattn compare`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from posattn.recipes import command
from posattn.settings import Natural


def folder_name(config: "CompareConfig") -> str:
    """compare-A-B, by the names of the two folders."""
    return f"compare-{config.a.name}-{config.b.name}"


@command(folder_name)
@dataclass(frozen=True)
class CompareConfig:
    """Compare two inspections head by head: differences with standard errors, and the heads side by side."""

    a: Positional[Path]
    """A run folder of `posattn inspect`."""
    b: Positional[Path]
    """Another, of a model with the same layers, heads and grids: say of another checkpoint."""
    shown: Natural = 6
    """Show the maps of this many heads, those whose attention moved most."""

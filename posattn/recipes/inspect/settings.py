"""The settings of `posattn inspect`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from posattn.recipes import command
from posattn.settings import Count, Seed


def folder_name(config: "InspectConfig") -> str:
    """inspect-MODEL, by the last part of a path or a hub's name."""
    return f"inspect-{Path(config.model).name.replace(':', '-')}"


@command(folder_name)
@dataclass(frozen=True)
class InspectConfig:
    """Attention statistics of a ViT over images: a table with error bars, and a page to look at."""

    model: Positional[str]
    """A timm model, hf-hub:NAME, or a run folder."""
    images: str
    """A folder of pictures, a parquet file, or a name of `posattn list data`."""
    checkpoint: str | None = None
    """The weights of a timm model (default: its random start), or which model of the run folder."""
    data_dir: Path | None = None
    """Where the files of a named set are."""
    limit: Count | None = None
    """Use this many images, evenly spaced; default: all."""
    seed: Seed = 0
    """Seed of a random start."""

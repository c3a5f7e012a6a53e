"""The settings of `posattn inspect`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InspectConfig:
    """What is inspected."""

    model: str
    images: str
    checkpoint: str | None = None
    data_dir: Path | None = None
    limit: int | None = None
    seed: int = 0

"""The settings of `posattn inspect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from posattn.recipes import command
from posattn.settings import Count, Natural, Pixels, Positive, Seed, Several, TwoOrMore
from posattn.vision.data.config import refuse_data_dir


def folder_name(config: "InspectConfig") -> str:
    """inspect-MODEL, by the last part of a path or a hub's name."""
    return f"inspect-{Path(config.model).name.replace(':', '-')}"


@command(folder_name)
@dataclass(frozen=True)
class InspectConfig:
    """Attention statistics of a ViT over images: a table with error bars, and a page to look at."""

    model: Positional[str]
    """A timm model, hf-hub:NAME, transformers:NAME, torchvision:NAME, a folder that timm or transformers saved, or a
    run folder."""
    images: str
    """A folder of pictures, one picture, a list of them (.txt), a parquet file, or a name of `posattn list data`."""
    checkpoint: str | None = None
    """The weights of a model of timm (default: its random start) or torchvision, or which model of the run folder."""
    data_dir: Path | None = None
    """Where the files of a named set are."""
    limit: TwoOrMore | None = None
    """Use this many images, evenly spaced; default: all."""
    img_size: Pixels | None = None
    """Pixels per side; default: the model's own. Position embeddings are resampled. Of timm and torchvision."""
    in_chans: Literal[1, 3] | None = None
    """Channels of the input; default: the model's own. Of timm."""
    layers: Several[Natural] | None = None
    """Numbers of the layers to inspect; default: all."""
    memory: Positive = 2.5
    """Gigabytes of running sums; with less, layers are inspected in several passes."""
    batch_size: Count | None = None
    """Images computed together; default: by the number of tokens."""
    examples: Natural = 3
    """Show the maps of this many images."""
    skip_corrupt: bool = False
    """Skip and count pictures that cannot be decoded."""
    seed: Seed = 0
    """Seed of a random start."""

    def validate(self) -> None:
        """Raise ValueError for a setting that is not read."""
        refuse_data_dir(self.images, self.data_dir)

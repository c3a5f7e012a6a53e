"""The settings of `posattn convert`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from posattn.recipes import command
from posattn.settings import (
    Count,
    Distincts,
    Natural,
    NonNegative,
    Pixels,
    Positive,
    Probability,
    Seed,
    Several,
    TwoOrMore,
)
from posattn.vision.data.config import refuse_data_dir

Kind = Literal["table", "relative", "convolution"]
DEFAULT_BUDGET = 0.95


def folder_name(config: "ConvertConfig") -> str:
    """convert-MODEL, by the last part of a path or a hub's name."""
    return f"convert-{Path(config.model).name.replace(':', '-')}"


@command(folder_name, resumable=True)
@dataclass(frozen=True)
class ConvertConfig:
    """Convert heads of a trained ViT to constant maps: the loss per head, the speed, and a
    folder with the converted model."""

    model: Positional[str]
    """A timm model (its pretrained weights without --checkpoint), hf-hub:NAME or local-dir:FOLDER."""
    images: str
    """A folder of pictures, a parquet file, or a name of `posattn list data`."""
    checkpoint: Path | None = None
    """The weights of a timm model."""
    data_dir: Path | None = None
    """Where the files of a named set are."""
    labels: bool = False
    """The pictures have labels, and the set has a training and a test split: measure accuracy too, on the latter."""
    metric: Literal["cosine", "neighbours", "accuracy"] | None = None
    """The measure to choose by: cosine of the features, overlap of their nearest neighbours, or accuracy (which needs
    --labels); default: accuracy with --labels, else cosine."""
    by: Literal["head", "block"] = "head"
    """Convert single heads or whole blocks."""
    budget: Probability | None = None
    """Convert as many heads as keep the metric at this value, or this share of the accuracy; default: 0.95."""
    heads: str | None = None
    """Convert this share of all heads, such as 40%, instead of a budget."""
    kinds: Several[Kind] = ("table", "convolution")
    """Allowed kinds of converted heads; each head gets the fastest whose loss is about the smallest."""
    window: Count = 9
    """Rows and columns of offsets that a convolution holds, odd."""
    tolerance: NonNegative = 0.1
    """A head may get a faster kind if its loss is larger than the smallest by at most this share."""
    limit: Count | None = None
    """Use this many pictures at most (of the training split, with --labels); default: all."""
    image_size: Pixels | None = None
    """Height and width of the model's input; default: the model's own."""
    sizes: Distincts[Pixels] = ()
    """Image sizes to time at; default: the model's input size. Tables support that size only."""
    calibration: TwoOrMore = 64
    """Pictures that the maps are averaged over."""
    ranking: Count = 128
    """Pictures that heads are ranked on and a recovery is judged by."""
    measured: Count = 256
    """Pictures that every reported loss is measured on; the order and the number of heads are chosen on them, too."""
    nearest: Count = 10
    """Neighbours of a picture."""
    points: Count = 12
    """Steps of a curve from none to all."""
    width: Count = 8
    """Units that the greedy order measures again at each step; at least twice as many as a step converts."""
    steps: Count = 24
    """Steps of the greedy order."""
    random_orders: Count = 3
    """Random orders to compare with."""
    refit: Natural = 512
    """Pictures that the converted model's linear layers are refitted on by least squares, those of the calibration
    among them; all that there are if fewer, 0 for no refit."""
    recover: Natural = 0
    """Steps of recovery: training to match the original's features on all pictures but those of --ranking and
    --measured. It is undone unless it makes the model better on those of --ranking (see docs/convert.md)."""
    batch_size: Count = 32
    """Pictures of a step of recovery."""
    lr: Positive = 1e-4
    """Learning rate of the weights in recovery; for tens of thousands of pictures."""
    maps_lr: Positive = 2e-2
    """Learning rate of the maps in recovery."""
    rounds: TwoOrMore = 10
    """Timed rounds, after one warm-up."""
    batch: Count = 8
    """Pictures of a timed batch."""
    seed: Seed = 0
    """Seed of the choice of pictures, of the random orders and of recovery."""

    def validate(self) -> None:
        """Raise ValueError for settings that do not fit each other."""
        refuse_data_dir(self.images, self.data_dir)
        if self.metric == "accuracy" and not self.labels:
            raise ValueError("metric accuracy needs --labels")
        if self.heads is not None:
            if self.budget is not None:
                raise ValueError(f"heads {self.heads} and --budget {self.budget} exclude each other")
            share_of(self.heads)
        if self.window % 2 == 0:
            raise ValueError(f"window must be odd, got {self.window}")
        for name, count in (("ranking", self.ranking), ("measured", self.measured)):
            if count < self.nearest + 2:
                raise ValueError(
                    f"{name} must be at least {self.nearest + 2} for {self.nearest} nearest neighbours, got {count}"
                )


def share_of(text: str) -> float:
    """40% as 0.4. Raises ValueError if it is no share in (0, 100 %]."""
    if not re.fullmatch(r"\d+(\.\d+)?%", text) or not 0 < float(text[:-1]) <= 100:
        raise ValueError(
            f"heads must be a share of all heads, above 0% and at most 100%, such as 40%; got {text!r}"
        )
    return float(text[:-1]) / 100

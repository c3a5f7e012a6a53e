"""A vision transformer as conversion sees it; each library has an adapter of its own."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from safetensors.torch import save as to_bytes
from timm.data import create_transform
from torch import Tensor, nn

from posattn import checks
from posattn.runs.files import write_whole
from posattn.vision.convert.heads import Place
from posattn.vision.models.scores import Grid

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # the files of a folder
Converted = Mapping[str, Any]  # ``heads``: of each block, heads with their kinds; ``grid``; ``window``


class Forward(NamedTuple):
    """What a model computes on images."""

    tokens: Float[Tensor, "n N d"]  # after the last norm
    features: Float[Tensor, "n c"]  # pooled, before the classifier
    logits: Float[Tensor, "n k"] | None  # None without a classifier


class ViT(ABC):
    """A model and what conversion needs of it.

    ``slot``: the attribute of a block that is its attention. ``embed``: the module that knows the size of the image
    and of a patch. ``prefix``: tokens before the patches.
    """

    slot: str
    path: str  # of the blocks
    projections: tuple[str, ...]  # of an attention: linear layers
    required: tuple[str, ...] = ()  # of these, what it must have
    since = ""  # which version has them
    blocks: Sequence[nn.Module]
    embed: Any
    prefix: int

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def attention(self, number: int) -> Any:
        """The attention of a block, None if it has none."""
        return getattr(self.blocks[number], self.slot, None)

    def replace(self, number: int, layer: nn.Module) -> None:
        """Give a block another attention, in place."""
        setattr(self.blocks[number], self.slot, layer)

    def place(self) -> Place:
        """The grid of patches that the model has now."""
        return Place(self.embed)

    def grid(self) -> Grid:
        """The tokens of a model at its own image size."""
        return Grid(*self.place().size(), self.prefix)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return pair(self.embed.image_size)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of pixels of a patch."""
        return pair(self.embed.patch_size)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of an image."""

    def plain(self, attn: Any) -> Any:
        """An attention as a layer that ``parts.READERS`` can read; it may share its parameters."""
        return attn

    def fit(self, layer: nn.Module) -> nn.Module:
        """A converted layer that a block calls as it called the original."""
        return layer

    @abstractmethod
    def forward(self, images: Float[Tensor, "n c H W"]) -> Forward:
        """Tokens, features and logits."""

    @abstractmethod
    def set_size(self, size: tuple[int, int]) -> None:
        """Another image size, in place: position embeddings are resampled.

        Raises ValueError if patches do not divide it, or the model's is fixed.
        """

    def check_size(self, size: tuple[int, int], name: str = "image") -> None:
        """Raise ValueError if patches do not divide an image size."""
        for side, patch, pixels in zip(("height", "width"), self.patch_size, size, strict=True):
            checks.divides(f"patch {side}", patch, f"{name} {side}", pixels)

    @abstractmethod
    def converted(self) -> Converted | None:
        """How its heads are kept, as recorded; None if nothing is converted, or nothing is recorded."""

    @abstractmethod
    def record(self, converted: Converted) -> None:
        """Record how the heads are kept, for ``save``."""

    @abstractmethod
    def save_config(self, folder: Path) -> None:
        """Write how a converted model, already frozen, is built again.

        Its classes are those of the classifier that it has now; this is noted in the model, which is to be a copy.

        Raises TypeError or ValueError if that cannot be written.
        """

    def save(self, folder: Path) -> None:
        """Write a converted model, already frozen, to a folder that ``saving.load`` reads; weights there stay until
        the new ones are whole."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        tensors = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        write_whole(folder / WEIGHTS, to_bytes(tensors, metadata={"format": "pt"}))

    @abstractmethod
    def data_config(self) -> dict[str, Any]:
        """How pictures become input: ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode``, as timm's."""

    def transform(self) -> Any:
        """The transform of pictures to uint8 by ``data_config``, at the model's size."""
        size = (self.channels, *self.image_size)
        return create_transform(**{**self.data_config(), "input_size": size}, normalize=False)


def refuse_other_grid(size: Sequence[int], own: tuple[int, int], patch: tuple[int, int]) -> None:
    """Raise ValueError if images of a size in pixels have another grid of patches than those of the model's own size.

    As many patches in another grid are refused too: constant maps tie each of them to a place.
    """
    if any(side // pixels != mine // pixels for side, mine, pixels in zip(size, own, patch, strict=True)):
        raise ValueError(
            f"images must be of the model's size, {own[0]} x {own[1]} px, got {size[0]} x {size[1]}"
        )


def share_of(crop: int, resized: int) -> float:
    """The ``crop_pct`` by which timm resizes a side to ``resized`` pixels, of which the middle ``crop`` are taken.

    timm rounds crop / crop_pct down, so it must not be below ``resized`` by rounding.
    """
    return 1.0 if crop >= resized else math.nextafter(crop / resized, 0.0)


def classes_of(head: Any) -> int | None:
    """The number of classes of a classifier; 0 without one, None if it is more than a linear layer."""
    if isinstance(head, nn.Linear):
        return head.out_features
    return 0 if isinstance(head, nn.Identity) else None


def pair(value: Any) -> tuple[int, int]:
    """One side of a square, or both."""
    height, width = (value, value) if isinstance(value, int) else value
    return height, width

"""The plan of an inspection, made from one image before the pass over all of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from posattn.vision.grid import Layout
from posattn.vision.inspect.adapters.layer import Tower
from posattn.vision.inspect.batches import batches
from posattn.vision.inspect.lazy import LazyMaps
from posattn.vision.inspect.sums import GROUPS
from posattn.vision.inspect.watch import observe

MEMORY = 2.5e9  # bytes of running sums
FEWEST_GROUPS = 4  # below this the jackknife says little: rather several passes
IDLE = "does not run in a forward pass of this model"
TOKENS_PER_BATCH, LARGEST_BATCH = 8192, 64


@dataclass(frozen=True)
class Plan:
    """How a model is inspected: layers in turns, each a pass over the images.

    ``memory``: bytes of running sums and of averages and example maps that are kept, without the model itself.
    """

    layouts: Mapping[str, Layout]  # by path, of the layers that can be observed
    turns: tuple[tuple[str, ...], ...]
    groups: int
    batch_size: int
    unobserved: Mapping[str, str]
    memory: int

    def __str__(self) -> str:
        passes = "one pass" if len(self.turns) == 1 else f"{len(self.turns)} passes"
        return (
            f"{len(self.layouts)} layers in {passes} over the images, {self.batch_size} at a time, sums in "
            f"{self.groups} groups: {self.memory / 1e9:.2f} GB beside the model"
        )


def plan(
    model: nn.Module,
    tower: Tower,
    image: Tensor,
    memory: float = MEMORY,
    batch_size: int | None = None,
    examples: int = 0,
) -> Plan:
    """The plan for images like ``image`` (1, c, H, W); raises what ``observe`` raises."""
    shapes: dict[str, tuple[int, ...]] = {}
    layouts: dict[str, Layout] = {}
    size: dict[str, int] = {}

    def see(path: str, maps: LazyMaps, layout: Layout, batch: Tensor) -> None:
        shapes[path], layouts[path] = maps.shape, layout
        size[path] = maps.shape[1] * maps.shape[2] * maps.shape[3] * maps.dtype.itemsize

    layers = {layer.path: layer for layer in tower.layers}
    refused: dict[str, TypeError] = {}
    observe(model, tower.run, image, layers, see, refuse=refused.__setitem__)
    for path in refused.keys() & size.keys():  # in the second run of a layer
        del size[path], layouts[path]
    if not size:
        raise next(
            iter(refused.values()), TypeError("no attention layer runs in a forward pass of this model")
        )
    idle = {path: IDLE for path in layers if path not in size and path not in refused}
    groups = int(min(GROUPS, memory // max(1, sum(size.values()))))
    turns: tuple[tuple[str, ...], ...] = (tuple(size),)
    if groups < FEWEST_GROUPS:
        groups, turns = FEWEST_GROUPS, in_turns(size, memory / FEWEST_GROUPS)
    tokens = max((shape[2] for shape in shapes.values()), default=1)
    return Plan(
        layouts,
        turns,
        groups,
        batch_size or max(1, min(LARGEST_BATCH, TOKENS_PER_BATCH // tokens)),
        {path: str(error) for path, error in refused.items()} | idle,
        groups * max(sum(size[path] for path in turn) for turn in turns)
        + sum(size.values()) * (2 + examples) // 2,
    )


def in_turns(size: Mapping[str, int], budget: float) -> tuple[tuple[str, ...], ...]:
    """Layers in order, as many together as fit into the budget, at least one."""
    turns: list[list[str]] = [[]]
    for path, needed in size.items():
        if turns[-1] and sum(size[held] for held in turns[-1]) + needed > budget:
            turns.append([])
        turns[-1].append(path)
    return tuple(map(tuple, turns))


def peek(images: Any) -> tuple[Tensor, Any]:
    """The first image (1, c, H, W), and the images with it still in them. Raises ValueError if there are none."""
    if not is_stream(images):
        if (first := next(batches(images, 1), None)) is not None:
            return first, images
    else:
        seen = []
        for item in images:
            seen.append(item)
            if (first := next(batches([item], 1), None)) is not None:
                return first, chain(seen, images)
    raise ValueError("statistics over images need at least two, got 0")


def is_stream(images: Any) -> bool:
    """Whether the images can be gone through only once."""
    return isinstance(images, Iterable) and not isinstance(images, Tensor) and iter(images) is images

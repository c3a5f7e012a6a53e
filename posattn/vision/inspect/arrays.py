"""Maps of an inspection as numpy arrays: of a layer, from a token over the image, and through all layers."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posattn.vision.grid import Layout
from posattn.vision.inspect.rollout import attention_rollout

if TYPE_CHECKING:
    from posattn.vision.inspect.results import Inspection

Query = int | tuple[int, int]


def path_of(inspection: "Inspection", layer: int) -> str:
    """The path of a layer by its number in the model. ValueError for one that was not inspected."""
    paths = {number: path for path, number in inspection.numbers.items() if path in inspection.results}
    if layer not in paths:
        raise ValueError(f"layers {', '.join(map(str, paths))} are inspected, got layer={layer}")
    return paths[layer]


def layer_maps(inspection: "Inspection", layer: int, image: int | None) -> Tensor:
    """The maps (h, Q, K) of a layer, by its number in the model: on average, or on an example image."""
    path = path_of(inspection, layer)
    if image is None:
        return inspection.results[path].average
    examples = inspection.example_maps.get(path, ())
    if not 0 <= image < len(examples):
        raise ValueError(f"layer {layer} has the maps of {len(examples)} example images, got image={image}")
    return examples[image].float()


def query_index(query: Query, layout: Layout) -> int:
    """The token of a query: (row, column) of a patch, or the number of a class token or register."""
    grid = layout.queries
    if isinstance(query, tuple | list):
        row, column = query
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            raise ValueError(f"query must be a patch of the {grid} grid, got {query}")
        return grid.prefix + row * grid.width + column
    if not 0 <= query < grid.prefix:
        raise ValueError(
            f"query must be (row, column) or one of {grid.prefix} class tokens and registers, got {query}"
        )
    return query


def attention_from(
    inspection: "Inspection", layer: int, head: int, query: Query, image: int | None
) -> NDArray[Any]:
    """One row of a map, over the (H, W) grid of key patches."""
    maps, layout = layer_maps(inspection, layer, image), inspection.results[path_of(inspection, layer)].layout
    if not 0 <= head < len(maps):
        raise ValueError(f"layer {layer} has heads 0..{len(maps) - 1}, got head={head}")
    row = maps[head, query_index(query, layout), layout.keys.prefix :]
    return row.reshape(layout.keys.size).clone().numpy()


def norms_of(inspection: "Inspection", layer: int, image: int) -> NDArray[Any]:
    """The norms (H, W) of the patches of an example image after a layer's block."""
    path = path_of(inspection, layer)
    examples = inspection.example_norms.get(path, ())
    if not 0 <= image < len(examples):
        raise ValueError(f"layer {layer} has the norms of {len(examples)} example images, got image={image}")
    return examples[image].reshape(inspection.results[path].layout.queries.size).clone().numpy()


def rollout(inspection: "Inspection", image: int | None) -> NDArray[np.float64]:
    """Attention rollout over all layers of the model."""
    if unobserved := [*inspection.tower.unobserved, *inspection.plan.unobserved]:
        raise ValueError(f"rollout needs every layer, but {', '.join(unobserved)} cannot be observed")
    numbers = [number for path, number in inspection.numbers.items() if path in inspection.results]
    if len(numbers) < (count := len(inspection.tower.layers)):
        raise ValueError(f"rollout needs all {count} layers, the inspection has layers {numbers}")
    layers = {layer.path: layer for layer in inspection.tower.layers}
    unfit = [
        path
        for path, result in inspection.results.items()
        if layers[path].windowed or layers[path].pooled or not result.layout.square
    ]
    if differences := [path for path in inspection.results if layers[path].maps_per_head > 1]:
        raise ValueError(f"rollout needs one map per head; {differences[0]} takes one softmax from another")
    if unfit:
        raise ValueError(
            f"rollout needs attention from all tokens to all tokens; {unfit[0]} attends otherwise"
        )
    in_turn = (inspection.numbers[path] for path in inspection.plan.layouts)  # as they run
    return attention_rollout(layer_maps(inspection, number, image) for number in in_turn).numpy()

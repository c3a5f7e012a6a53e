"""The data of the page of an inspection: sinks, queries that fit the budget, and its size."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from posattn.runs.report import inspection


def test_sinks_are_heads_whose_patches_look_at_one_patch_of_each_image() -> None:
    heads = {  # entropy, positionality, sink share
        (2, 0): (0.6, 0.01, 0.7),
        (2, 1): (0.6, 0.90, 0.7),  # the same patch in all images: positional
        (2, 2): (4.0, 0.01, 0.3),  # spread
        (4, 0): (0.6, 0.01, 0.1),  # each patch looks elsewhere
    }
    names = ("entropy", "positionality", "sink_share")
    rows = [
        (layer, head, name, value, 0.1)
        for (layer, head), values in heads.items()
        for name, value in zip(names, values, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["layer", "head", "measure", "value", "stderr"])
    result = {"numbers": [2, 4], "references": [{"entropy": 5.5}] * 2}
    assert inspection.sinks(table, result) == [(2, 0)]
    assert inspection.sinks(table[table.measure != "sink_share"], result) == []


def test_uniform_maps_of_layers_that_differ_are_given_as_a_range() -> None:
    """Of pooled attention; the first layer's stood for all."""
    first, last = (
        {"entropy": 4.158883, "locality": 0.1},
        {"entropy": 1.386294, "locality": 0.1, "distance_px": np.nan},
    )
    assert inspection.uniform_texts([first, last]) == {"entropy": "1.386 to 4.159", "locality": "0.100"}


def test_a_page_of_144_heads_at_224_pixels_stays_under_10_mb() -> None:
    """Random maps: those of a trained model hold less information and are smaller."""
    g = torch.Generator().manual_seed(0)
    layers = range(12)
    maps = {f"average.{layer}": torch.randn(12, 197, 197, generator=g).softmax(-1).half() for layer in layers}
    maps |= {
        f"examples.{layer}": (2 * torch.randn(3, 12, 197, 197, generator=g)).softmax(-1).half()
        for layer in layers
    }
    maps["pictures"] = torch.randint(0, 256, (3, 3, 224, 224), generator=g, dtype=torch.uint8)
    maps["similarity"] = torch.rand(196, 196, generator=g)
    rows = [(layer, head, "entropy", 1.0, 0.1) for layer in layers for head in range(12)]
    table = pd.DataFrame(rows, columns=["layer", "head", "measure", "value", "stderr"])
    result: dict[str, Any] = {
        "layers": list(layers),
        "numbers": list(layers),
        "queries": [[14, 14, 1]] * 12,
        "keys": [[14, 14, 1]] * 12,
        "references": [{"entropy": 5.28}] * 12,
        "recovered": [],
        "stable_from": 0.8,
    }
    arrays = {name: tensor.numpy() for name, tensor in maps.items()}
    data = inspection.page_data(table, arrays, result, ["entropy"])
    assert data["stride"] == 1
    assert len(inspection.to_script(data)) < 9.5e6  # the rest of the page is some 200 kB
    assert {len(images) for images in data["examples"]} == {3}, "as many as were asked for"
    assert data["sparse"] == 3


@pytest.mark.parametrize(
    ("grid", "entries", "stride"), [([14, 14], 1.0, 1), ([24, 24], 2.0, 2), ([7, 3], 8.0, 4)]
)
def test_queries_are_thinned_to_the_budget(grid: list[int], entries: float, stride: int) -> None:
    assert inspection.stride_for(int(entries * 1000), 1000, grid) == stride
    H, W = grid
    map_ = np.arange(-2, H * W)[:, None] * np.ones((1, H * W))
    kept = inspection.every(map_, stride, [H, W, 2])
    assert kept[:, 0].tolist() == [-2, -1] + [
        y * W + x for y in range(0, H, stride) for x in range(0, W, stride)
    ]

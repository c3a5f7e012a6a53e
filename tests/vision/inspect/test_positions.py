"""What models of transformers do to positions and pictures, against the library itself."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from inspected_models import TRANSFORMERS
from scipy.stats import spearmanr

from posattn.vision.grid import Grid
from posattn.vision.inspect.adapters.transformers import mean_and_std
from posattn.vision.inspect.inspection import inspect_attention

GRIDS = [Grid(2, 8), Grid(8, 2), Grid(4, 4)]
RECTANGLES = [*product(("ViT", "DeiT"), [*GRIDS, Grid(3, 5)]), *product(("DINOv2", "SigLIP vision"), GRIDS)]


@pytest.mark.parametrize(("name", "grid"), RECTANGLES, ids=str)
def test_positions_of_transformers_are_those_that_a_forward_pass_adds(name: str, grid: Grid) -> None:
    """DINOv2 resamples by itself, as if its table were that of a square; SigLIP takes any 16 patches."""
    size = (8 * grid.height, 8 * grid.width)
    transformers = pytest.importorskip("transformers", reason="transformers is an optional library")
    kind, config, options, _ = TRANSFORMERS[name]
    image_size = 32 if name == "SigLIP vision" else size
    model = getattr(transformers, kind)(
        getattr(transformers, config)(**{**options, "image_size": image_size})
    )
    torch.manual_seed(0)
    inner, pictures = getattr(model, "vision_model", model).eval(), torch.randn(2, 3, *size)
    with torch.no_grad():
        table = next(p for n, p in inner.named_parameters() if "position_embedding" in n)
        torch.nn.init.normal_(table)
        moved = inner.embeddings(pictures)
        closeness = inspect_attention(inner, pictures).query("measure == 'pos_embed_similarity'")
        table.zero_()
        added = (moved - inner.embeddings(pictures))[0, -grid.num_patches :].double()
    added = torch.nn.functional.normalize(added - added.mean(0), dim=1)
    places = torch.cartesian_prod(*(torch.arange(float(side)) for side in grid.size))
    pairs = torch.triu_indices(len(added), len(added), 1)
    apart = torch.cdist(places, places)[tuple(pairs)]
    expected = spearmanr((added @ added.T)[tuple(pairs)], -apart).statistic
    assert closeness.value.tolist() == pytest.approx([expected], abs=1e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"do_rescale": False}]
)
def test_mean_and_std_are_those_that_the_processor_applies(changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional library")
    processor = transformers.ViTImageProcessor(
        do_resize=False, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], **changes
    )
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    found = torch.as_tensor(np.asarray(processor(picture)["pixel_values"][0])).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in mean_and_std(processor))
    expected = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / std
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

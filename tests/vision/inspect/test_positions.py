"""What models of transformers and NaFlexVit do to positions and pictures, against the library itself."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import timm
import torch
from inspected_models import TRANSFORMERS
from scipy.stats import spearmanr
from torch import Tensor, nn

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
    assert closeness.value.tolist() == pytest.approx([rank_correlation(added, grid)], abs=1e-3)


class Resized(nn.Module):
    """A model behind a resizing of its images."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, pictures: Tensor) -> Any:
        return self.model(nn.functional.interpolate(pictures, self.size))


@pytest.mark.parametrize("name", ["ViT", "DINOv2"])
def test_positions_are_those_of_the_size_that_enters_the_model(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional library")
    kind, config, options, _ = TRANSFORMERS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    found = [
        inspect_attention(either, torch.randn(2, 3, *size)).query("measure == 'pos_embed_similarity'")
        for either, size in [(model, (32, 32)), (Resized(model, (32, 32)), (64, 48))]
    ]
    assert found[1].value.tolist() == found[0].value.tolist()


@pytest.mark.parametrize("grid", [Grid(4, 4), Grid(2, 6), Grid(16, 16)], ids=str)
@pytest.mark.parametrize("antialias", [True, False])
def test_positions_of_naflexvit_are_those_that_a_forward_pass_adds(grid: Grid, antialias: bool) -> None:
    model, pictures = (
        flexible_vit(pos_embed_antialias=antialias),
        torch.randn(2, 3, 8 * grid.height, 8 * grid.width),
    )
    with torch.no_grad():
        closeness = inspect_attention(model, pictures).query("measure == 'pos_embed_similarity'")
        model.embeds.proj.weight.zero_()
        model.embeds.proj.bias.zero_()
        added = model.embeds(pictures)[0][0, -grid.num_patches :].double()
    assert closeness.value.tolist() == pytest.approx([rank_correlation(added, grid)], abs=1e-3)


@pytest.mark.parametrize(
    "options", [{"pos_embed": "factorized"}, {"pos_embed_ar_preserving": True}, {"pos_embed": "none"}]
)
def test_positions_of_naflexvit_that_are_not_a_plain_table_have_no_row(options: dict[str, Any]) -> None:
    found = inspect_attention(flexible_vit(**options), torch.randn(2, 3, 32, 32))
    assert "pos_embed_similarity" not in set(found.measure)


def flexible_vit(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    return timm.create_model("naflexvit_base_patch16_gap", **sizes, **options).eval()


def rank_correlation(added: Tensor, grid: Grid) -> float:
    """Of the similarity of what is added to two patches with their nearness."""
    added = torch.nn.functional.normalize(added - added.mean(0), dim=1)
    places = torch.cartesian_prod(*(torch.arange(float(side)) for side in grid.size))
    pairs = torch.triu_indices(len(added), len(added), 1)
    apart = torch.cdist(places, places)[tuple(pairs)]
    return float(spearmanr((added @ added.T)[tuple(pairs)], -apart).statistic)


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

"""Attention statistics against brute force over stored maps, their invariances, and their errors."""

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn.structure.partition import Partition
from posattn.vision.grid import Grid
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.inspection import Inspection, inspect_attention, inspect_model
from posattn.vision.inspect.norms import NORM_MEASURES
from posattn.vision.inspect.positions import by_distance, closeness_correlation, similarity
from posattn.vision.inspect.tables import MEASURES

SMALL: dict[str, Any] = {
    "img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 2,
}  # fmt: skip


def make(name: str = "vit_tiny_patch16_224", noise: float = 0.3, **options: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def images(n: int = 20) -> Tensor:
    return torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def value(table: pd.DataFrame, measure: str, layer: int = 0, head: int = 0, column: str = "value") -> float:
    chosen = table[(table.measure == measure) & (table.layer == layer) & (table["head"] == head)]
    assert len(chosen) == 1
    return float(chosen[column].iloc[0])


def stored_maps(model: nn.Module, pictures: Tensor) -> np.ndarray:
    """(layers, n, h, N, N), by unfused attention."""
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        model(pictures)
    return torch.stack(maps).double().numpy()


def brute_force(S: np.ndarray, prefix: int, radius: float) -> dict[str, np.ndarray]:
    """Of the (n, N, N) maps of a head on a 4x4 grid of patches of 4 pixels: each measure's value by image."""
    found: dict[str, list[float]] = {name: [] for name in ("distance", "entropy", "locality", "prefix_share")}
    for image in S:
        mass = within = distance = entropy = share = 0.0
        for query in range(16):
            row = image[prefix + query]
            entropy -= sum(p * math.log(p) for p in row) / 16
            share += row[:prefix].sum() / 16
            for key in range(16):
                apart = math.dist(divmod(query, 4), divmod(key, 4))
                mass += row[prefix + key]
                distance += row[prefix + key] * apart
                within += row[prefix + key] * (apart <= radius)
        each = {
            "distance": distance / mass,
            "entropy": entropy,
            "locality": within / mass,
            "prefix_share": share,
        }
        for name, number in each.items():
            found[name].append(number)
    arrays = {name: np.array(numbers) for name, numbers in found.items()}
    return {**arrays, "distance_px": 4 * arrays["distance"]}


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}])
@pytest.mark.parametrize("batch", [20, 7, 1])
def test_image_measures_are_those_of_stored_maps(options: dict[str, Any], batch: int) -> None:
    model = make(**options)
    table = inspect_attention(model, images().split(batch), radius=2.0)
    maps, prefix = stored_maps(model, images()), model.num_prefix_tokens
    for layer, head in ((0, 0), (1, 2)):
        for name, each in brute_force(maps[layer, :, head], prefix, 2.0).items():
            assert value(table, name, layer, head) == pytest.approx(each.mean(), rel=2e-5, abs=1e-6)
            error = each.std(ddof=1) / math.sqrt(len(each))
            assert value(table, name, layer, head, "stderr") == pytest.approx(error, rel=2e-3, abs=1e-7)


def test_positionality_is_the_explained_share_without_its_noise() -> None:
    model = make()
    found = value(inspect_attention(model, images()), "positionality", 1, 1)
    S = stored_maps(model, images())[1, :, 1]
    n, uniform = len(S), 1 / S.shape[-1]
    assert S.mean() == pytest.approx(uniform)
    within = S.var(axis=0, ddof=1).sum()
    explained = ((S.mean(0) - uniform) ** 2).sum() - within / n
    assert found == pytest.approx(explained / (explained + within), abs=1e-5)
    assert 0.02 < found < 0.98, "a map that is constant or pure noise tests nothing"


@pytest.mark.parametrize("scores", ["encodings", "relative", "table"])
def test_positional_attention_has_positionality_one(scores: str) -> None:
    table = inspect_attention(make("vit_posattn_tiny_patch16_224", scores=scores), images())
    of_heads = table[table["head"] >= 0]
    assert of_heads[of_heads.measure == "positionality"].value.to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert of_heads.stderr.max() < 1e-5


def test_attention_that_ignores_all_is_positional_and_scores_the_reference() -> None:
    model = make()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:24] = 0
            block.attn.qkv.bias[:24] = 0
    table = inspect_attention(model, images())
    assert value(table, "positionality") == pytest.approx(1.0)
    for measure, expected in table.attrs["reference"].items():
        assert value(table, measure) == pytest.approx(
            expected, rel=1e-5, abs=1e-3 if "association" in measure else 1e-6
        )
    assert table.attrs["reference"]["association"] == pytest.approx((4 * 4 + 8 * 6 + 4 * 9) / 16 / 16)


def test_the_table_is_tidy() -> None:
    table = inspect_attention(make(), images())
    assert list(table.columns) == ["layer", "head", "measure", "value", "stderr"]
    assert set(table.measure) == {*MEASURES, *NORM_MEASURES, "pos_embed_similarity"}
    assert len(table) == 2 * 3 * len(MEASURES) + 2 * len(NORM_MEASURES) + 1
    assert not table.duplicated(["layer", "head", "measure"]).any()
    assert table.attrs["layers"] == ["blocks.0.attn", "blocks.1.attn"]
    assert table.attrs["grid"] == [4, 4]
    assert "pos_embed_similarity" not in set(inspect_attention(make(pos_embed="none"), images()).measure)


def test_structure_put_into_the_scores_is_found_and_another_is_not() -> None:
    tiles = Partition.tiles((4, 4), (2, 2))
    model = make("vit_posattn_tiny_patch16_224", scores="table")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.maps.scores.table.copy_(
                4.0 * tiles.same + torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
            )
    inspection = inspect_model(model, images(), tiles, recover=True)
    table = inspection.table()
    assert value(table, "association") == value(table, "profile_association") == 1
    assert table.attrs["reference"]["association"] == 0.25
    assert table.attrs["reference"]["profile_association"] == pytest.approx(3 / 15)
    other = Partition(torch.arange(16) % 4)  # columns of the grid: half of a tile each
    assert value(inspect_attention(model, images(), other), "association") == pytest.approx(0.5)
    recovered = inspection.results["blocks.0.attn"].recovered
    assert recovered is not None
    found, agreement = recovered
    assert agreement.tolist() == [1, 1, 1]
    assert all(torch.equal(labels[:, None] == labels, tiles.same) for labels in found)


def test_embeddings_of_a_smooth_grid_are_the_more_alike_the_nearer() -> None:
    model, grid = make(), Grid(4, 4, 1)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    with torch.no_grad():
        model.pos_embed.zero_()
        for channel, wave in enumerate((rows.cos, rows.sin, columns.cos, columns.sin)):
            model.pos_embed[0, 1:, channel] = wave().flatten()
    embedded = find_attention(model).positions(grid, (16, 16))
    assert embedded is not None
    similar = similarity(embedded)
    assert closeness_correlation(similar, grid) > 0.8
    curve = by_distance(similar, grid)
    assert curve[0] == (0, pytest.approx(1))
    pairs = [
        similar[i, j] for i in range(16) for j in range(16) if math.dist(divmod(i, 4), divmod(j, 4)) == 1
    ]
    assert curve[1] == (1, pytest.approx(float(torch.stack(pairs).mean())))


BAD = [
    (lambda: inspect_attention(make(), images(1)), "at least two, got 1"),
    (lambda: inspect_attention(make(), images(0)), "at least two, got 0"),
    (lambda: inspect_attention(make(), []), "at least two, got 0"),
    (lambda: inspect_attention(make(), images(), Partition.contiguous(20, 4)), r"4x4 = 16 .*D=20"),
    (lambda: inspect_attention(make(), images(), radius=-1.0), "radius must be .* at least 0, got -1"),
    (lambda: inspect_model(make(), images(), examples=-1), "examples must be at least 0, got -1"),
    (lambda: inspect_attention(make(), images(), batch_size=-1), "batch_size must be at least 1, got -1"),
    (lambda: inspect_attention(make(), images(), batch_size=0), "batch_size must be at least 1, got 0"),
    (lambda: inspect_attention(make(), torch.zeros(4, 1, 8, 8)), "images must be 16x16 .* got 8x8"),
]


@pytest.mark.parametrize(("call", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_bad_input(call: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        call()


def test_half_precision_overflow_is_named_and_what_was_finished_kept() -> None:
    model = make().to(torch.float16)

    def stream() -> Iterator[Tensor]:
        yield images(6)
        model.blocks[1].attn.qkv.weight.data *= 3e4
        yield images(6)

    kept: list[Inspection] = []
    with pytest.raises(ValueError, match=r"blocks\.1\.attn: attention is not finite.* half precision"):
        inspect_model(model, stream(), on_error=lambda error, measured: kept.append(measured))
    assert kept[0].table().attrs["images"] == 6


def test_a_failure_halfway_keeps_the_table_of_what_was_finished() -> None:
    def stream() -> Iterator[Tensor]:
        yield images(10)
        raise OSError("the disk is gone")

    kept: list[Inspection] = []
    with pytest.raises(OSError, match="the disk is gone"):
        inspect_model(make(), stream(), on_error=lambda error, measured: kept.append(measured))
    expected = inspect_attention(make(), images(10))
    pd.testing.assert_frame_equal(kept[0].table(), expected)


PEAKS = """
import resource, timm, torch
from posattn.vision.inspect.inspection import inspect_attention
torch.set_num_threads(1)
model = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2, embed_dim=24)
for images in (100, 1000):
    inspect_attention(model, (torch.randn(20, 3, 64, 64) for _ in range(images // 20)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_images() -> None:
    """The peak of a process of its own, libraries included: maps that were kept would add a fifth."""
    run = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, check=True)
    few, many = map(int, run.stdout.split())
    assert many < 1.1 * few

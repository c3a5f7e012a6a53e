"""What was once measured wrongly without a word, each with the right value."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from posattn.structure.partition import Cover
from posattn.vision.convert.maps import to_positional
from posattn.vision.grid import Grid, distances, grid_by_stride
from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.inspection import (
    Inspection,
    check_partition,
    chosen_layers,
    inspect_attention,
    inspect_model,
)
from posattn.vision.inspect.lazy import FromQueries
from posattn.vision.inspect.plan import plan
from posattn.vision.inspect.positions import closeness_correlation, similarity
from posattn.vision.inspect.watch import watch_attention

SMALL: dict[str, Any] = {
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 2,
}


def make(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL, "img_size": 16, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(n: int = 8, size: tuple[int, int] = (16, 16)) -> Tensor:
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(1))


def same_numbers(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (16, 28), (24, 24)])
def test_the_embedding_is_the_one_that_the_forward_pass_adds(
    size: tuple[int, int], class_token: bool
) -> None:
    pooling = {} if class_token else {"class_token": False, "global_pool": "avg"}
    model = make(img_size=32, dynamic_img_size=True, **pooling)
    rows, columns = torch.meshgrid(*[0.4 * torch.arange(8.0)] * 2, indexing="ij")
    with torch.no_grad():
        for channel, wave in enumerate((rows.cos, rows.sin, columns.cos, columns.sin)):
            model.pos_embed[0, -64:, channel] = 4 * wave().flatten()
    added = model._pos_embed(torch.zeros(1, size[0] // 4, size[1] // 4, 24))[0, int(class_token) :]
    found = inspect_attention(model, images(size=size))
    value = float(found[found.measure == "pos_embed_similarity"].value.iloc[0])
    grid = Grid(size[0] // 4, size[1] // 4)
    assert value == pytest.approx(closeness_correlation(similarity(added), grid), abs=1e-6)
    stored = model.pos_embed[0, -grid.num_patches :]
    assert abs(value - closeness_correlation(similarity(stored), grid)) > 0.05, (
        "the last rows would do as well"
    )
    assert found.attrs["grid"] == list(grid.size)


def test_landscape_and_portrait_are_not_merged() -> None:
    model = make(img_size=32, dynamic_img_size=True)
    landscape, portrait = images(4, (8, 32)), images(4, (32, 8))
    alone = inspect_attention(model, landscape)
    assert alone.attrs["grid"] == [2, 8]
    message = r"one grid of patches: .* saw 2x8 patches of 4x4 pixels, then 8x2 patches"
    kept: list[Inspection] = []
    with pytest.raises(ValueError, match=message):
        inspect_model(model, [landscape, portrait], on_error=lambda error, measured: kept.append(measured))
    same_numbers(kept[0].table(), alone)
    layers = {0: model.blocks[0].attn}  # as a conversion averages maps
    with pytest.raises(ValueError, match=message):
        watch_attention(model, [landscape, portrait], layers, lambda key, maps, batch: None)
    with pytest.raises(ValueError):  # noqa: PT011  (which check refuses it first is the conversion's affair)
        to_positional(model, [landscape, portrait])


class Headed(nn.Module):
    """A user's classifier around a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.num_heads_of_mine = backbone, 3
        self.classifier = nn.Linear(24, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classifier(self.backbone.forward_features(pictures)[:, 0])


class Enlarging(nn.Module):
    """A wrapper that resizes the images: a patch of the model's input is half as wide in theirs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(nn.functional.interpolate(pictures, scale_factor=2))


WRAPPERS = {
    "DataParallel": lambda vit: nn.DataParallel(vit),
    "Sequential": lambda vit: nn.Sequential(vit, nn.Linear(2, 7)),
    "own head": Headed,
    "torch.compile": torch.compile,
    "nested": lambda vit: nn.DataParallel(nn.Sequential(nn.Identity(), vit)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_class_token_and_grid_are_found_inside_wrappers(name: str) -> None:
    """3 x 5 patches and a class token: 16 tokens, which would pass as a 4 x 4 grid without one."""
    model = make(img_size=(12, 20))
    expected = inspect_attention(model, images(size=(12, 20)))
    wrapped = WRAPPERS[name](model)
    found = inspect_attention(wrapped, images(size=(12, 20)))
    same_numbers(found, expected)
    assert found.attrs["grid"] == [3, 5]
    for path in found.attrs["layers"]:
        assert hasattr(wrapped.get_submodule(path), "num_heads")


def test_a_compiled_block_is_seen() -> None:
    model = make()
    expected = inspect_attention(model, images())
    model.blocks[1].compile()
    same_numbers(inspect_attention(model, images()), expected)


def test_features_only_is_seen() -> None:
    torch.manual_seed(0)
    features = timm.create_model(
        "vit_tiny_patch16_224", **{**SMALL, "img_size": (12, 20)}, features_only=True, out_indices=(0, 1)
    ).eval()
    found = inspect_attention(features, images(size=(12, 20)))
    expected = inspect_attention(features.model, images(size=(12, 20)))
    same_numbers(found, expected)
    share = found[found.measure == "prefix_share"].value
    assert share.between(0.02, 0.2).all(), "the class token is one of 16"


def test_a_wrapper_that_resizes_is_measured_in_the_models_pixels() -> None:
    model = make(img_size=32)
    found = inspect_attention(Enlarging(model), images(size=(16, 16)))
    expected = inspect_attention(model, nn.functional.interpolate(images(size=(16, 16)), scale_factor=2))
    same_numbers(found, expected)


@pytest.mark.parametrize("wrap", [False, True])
def test_peft_is_looked_through(wrap: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional library")
    model = make(img_size=(12, 20))
    expected = inspect_attention(model, images(size=(12, 20)))
    lora = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["qkv"], r=2)
    ).eval()  # starts as the model
    found = inspect_attention(nn.Sequential(lora) if wrap else lora, images(size=(12, 20)))
    same_numbers(found, expected)


def test_a_surrounding_autocast_changes_nothing() -> None:
    model = make()
    expected = inspect_attention(model, images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = inspect_attention(model, images())
        assert torch.is_autocast_enabled("cpu")
    pd.testing.assert_frame_equal(found, expected)


def padded(size: tuple[int, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """timm's ViT, whose last patches are padded, its images, and its (n, h, N, N) maps in the first layer."""
    model, maps = make(dynamic_img_size=True, dynamic_img_pad=True).double(), []
    model.blocks[0].attn.fused_attn = False
    model.blocks[0].attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    model(images(size=size).double())
    return model, images(size=size).double(), maps[0].detach()


def cut_off(size: tuple[int, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """The same of transformers' DINOv2, which leaves off what is no whole patch."""
    transformers = pytest.importorskip("transformers", reason="transformers is an optional library")
    config = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "num_channels": 1}
    made = transformers.Dinov2Config(**config, image_size=16, patch_size=4, attn_implementation="eager")
    model = transformers.Dinov2Model(made).double().eval()
    with torch.no_grad():
        maps = model(images(size=size).double(), output_attentions=True).attentions[0]
    return model, images(size=size).double(), maps


@pytest.mark.parametrize(
    ("run", "size", "grid"),
    [(padded, (17, 13), (5, 4)), (cut_off, (19, 19), (4, 4)), (cut_off, (23, 14), (5, 3))],
)
def test_patches_that_do_not_tile_the_image_are_a_stride_apart(
    run: Any, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    model, pictures, maps = run(size)
    corners = torch.cartesian_prod(*(4.0 * torch.arange(side, dtype=torch.double) for side in grid))
    among = maps[..., 1:, 1:]
    expected = (among * torch.cdist(corners, corners)).sum((-1, -2)) / among.sum((-1, -2))
    table = inspect_attention(model, pictures).query("layer == 0")
    assert table[table.measure == "distance_px"].value.tolist() == pytest.approx(expected.mean(0).tolist())


@pytest.mark.parametrize(
    ("name", "size", "strides"),
    [
        ("pit_ti_224", 224, {27: 8, 14: 16, 7: 32}),  # patches of 16 pixels that overlap
        ("levit_128s", 224, {14: 16, 7: 32, 4: 64}),
        ("nextvit_small", 64, {8: 8, 4: 16, 2: 32}),  # whose blocks have a patch_embed of their own
        ("pvt_v2_b0", 65, {17: 4, 9: 8, 5: 16, 3: 32}),
    ],
)
def test_patches_of_later_stages_are_a_multiple_of_the_stride_apart(
    name: str, size: int, strides: dict[int, int]
) -> None:
    model = timm.create_model(name).eval()
    layouts = plan(model, find_attention(model), torch.rand(1, 3, size, size)).layouts.values()
    assert {layout.queries.height: layout.patch for layout in layouts} == {
        side: (stride, stride) for side, stride in strides.items()
    }


def test_other_images_than_floats_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floats as the model takes them, got torch\.uint8"):
        inspect_attention(make(), torch.zeros(4, 1, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("image", "patches", "grid"),
    [((224, 224), 49, (7, 7)), ((224, 448), 98, (7, 14)), ((224, 224), 50, None), ((48, 80), 16, None)],
)
def test_grids_are_told_by_the_stride(
    image: tuple[int, int], patches: int, grid: tuple[int, int] | None
) -> None:
    assert grid_by_stride(image, patches) == grid


def test_distances_between_grids_are_between_centres() -> None:
    """Two by two queries over four by four keys: each covers four, a quarter of a patch from its centre."""
    apart = distances(Grid(2, 2), Grid(4, 4))
    assert apart.shape == (4, 16)
    assert sorted(apart[0].tolist())[:4] == pytest.approx([math.hypot(0.25, 0.25)] * 4)
    assert apart[0, 15].item() == pytest.approx(math.hypot(1.25, 1.25))


def test_resampling_is_timms(generator: torch.Generator) -> None:
    model = make(img_size=32, dynamic_img_size=True)
    expected = resample_abs_pos_embed(model.pos_embed, [4, 7], [8, 8], num_prefix_tokens=1)[0, 1:]
    found = inspect_attention(model, images(size=(16, 28)))
    value = found[found.measure == "pos_embed_similarity"].value.iloc[0]
    assert value == pytest.approx(closeness_correlation(similarity(expected), Grid(4, 7)))


@pytest.mark.parametrize(
    "partition", [[0, 0, 1, 1], Cover([[True, True, False, False], [False, True, True, True]])]
)
def test_what_is_no_partition_is_refused(partition: Any) -> None:
    """Also sets that overlap, which were refused after all images were measured."""
    with pytest.raises(TypeError, match=r"partition must be a Partition, got (list|Cover)"):
        check_partition(partition, [])


def test_a_bias_that_is_not_finite_is_named() -> None:
    model = make("beit_base_patch16_224")
    with torch.no_grad():
        model.blocks[0].attn.relative_position_bias_table[3, 0] = math.nan
    with pytest.raises(ValueError, match="attention is not finite"):
        inspect_attention(model, images(), layers=[0])


def test_a_query_without_a_key_is_not_finite() -> None:
    query, mask = torch.randn(1, 1, 2, 4), torch.tensor([[True, True], [False, False]])
    for given in (mask, torch.where(mask, 0.0, -torch.inf)):
        assert not FromQueries(query, query, attn_mask=given).finite()
    assert FromQueries(query, query, is_causal=True).finite()


class Flipped(nn.Module):
    """Adds what a model gives for the mirrored images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels) + self.model(pixels.flip(-1))


def test_layers_that_run_several_times_are_refused() -> None:
    """Their maps would count as those of twice as many images."""
    with pytest.raises(TypeError, match="it runs several times in a forward pass"):
        inspect_attention(Flipped(make()), images())


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="layers must name at least one layer, got none"):
        inspect_attention(make(), images(), layers=[])


def test_layers_are_a_list() -> None:
    with pytest.raises(TypeError, match="layers must be a list of numbers, got 2"):
        chosen_layers(find_attention(make()), 2)
    assert list(chosen_layers(find_attention(make()), np.array([1, 0])).values()) == [0, 1]

"""Attention that is not observed, and modules that have heads and do not attend: both are told apart from layers."""

from typing import Any

import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

from posattn.vision.inspect.adapters.find import find_attention
from posattn.vision.inspect.inspection import inspect_attention, inspect_model


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_what_is_unobserved_is_told() -> None:
    model = timm.create_model("cait_xxs24_224", img_size=64, depth=1, embed_dim=48, num_heads=4).eval()
    table = inspect_attention(model, images())
    assert table.attrs["layers"] == ["blocks.0.attn"]
    assert "attends from the class token alone" in table.attrs["unobserved"]["blocks_token_only.0.attn"]


def test_softmaxes_that_are_no_maps_of_heads_are_refused() -> None:
    """Lambda layers normalise keys over tokens; so does any module whose softmax cannot be divided among its heads."""
    with pytest.raises(ValueError, match="LambdaLayer normalises its keys over tokens"):
        find_attention(timm.create_model("lambda_resnet26t"))
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, img_size=64)
    model.blocks[1].attn = OverTokens(3)
    found = inspect_attention(model, images()).attrs["unobserved"]
    assert "its softmax is of (1, 48, 17), which are not the maps of 3 heads" in found["blocks.1.attn"]


class OverTokens(nn.Module):
    """A layer with heads whose softmax is over the tokens, for each channel."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, tokens: Tensor, **others: Any) -> Tensor:
        return tokens.mT.softmax(-1).mT


def test_modules_that_only_have_heads_are_no_layers() -> None:
    """A rotary embedding with frequencies for each head comes before the blocks, and attends nowhere."""
    options: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}
    model, expected = timm.create_model("vit_small_patch16_rope_mixed_224", **options).eval(), []
    for block in model.blocks:
        block.attn.qkv.weight.data *= 10
    inspection = inspect_model(model, images())
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: expected.append(inputs[0]))
    with torch.no_grad():
        model(images())
    assert inspection.table().attrs["numbers"] == [0, 1]
    for number, maps in enumerate(expected):
        found = torch.from_numpy(inspection.maps(number))
        torch.testing.assert_close(found, maps.mean(0), atol=1e-5, rtol=0)
    assert inspection.rollout().shape == (17, 17)


def test_a_layer_that_does_not_run_is_unobserved() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=48, num_heads=3, img_size=64)
    model.spare = nn.MultiheadAttention(48, 3)
    inspection = inspect_model(model, images())
    assert inspection.table().attrs["layers"] == ["blocks.0.attn"]
    reason = {"spare": "does not run in a forward pass of this model"}
    assert inspection.table().attrs["unobserved"] == reason
    with pytest.raises(ValueError, match="spare cannot be observed"):
        inspection.rollout()


def test_attention_from_one_token_is_no_grid() -> None:
    """VOLO ends with class attention: its one query must not pass as a grid of one patch."""
    options = {
        "img_size": 64,
        "embed_dims": (24, 24, 24, 24),
        "num_heads": (2, 2, 2, 2),
        "layers": (1, 1, 1, 1),
    }
    model = timm.models.VOLO(**options, mlp_ratio=1, downsamples=(True, False, False, False)).eval()
    inspection = inspect_model(model, images())
    assert {layout.queries.size for layout in inspection.layouts} == {(4, 4)}
    reasons = inspection.table().attrs["unobserved"]
    assert any("from a single token" in reason for reason in reasons.values())
    assert any("OutlookAttention predicts weights" in reason for reason in reasons.values())


def knocked_out(attn: Any, in_place: bool = False) -> None:
    """Without its second head, as interpretability experiments do it."""

    def hook(module: Any, given: Any, maps: Tensor) -> Tensor:
        keep = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
        return maps.mul_(keep) if in_place else maps * keep

    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(hook)


class Renormalised(timm.layers.Attention):
    """The largest eight entries of every row alone, in the transposed product of LeViT."""

    def forward(self, x: Tensor, **others: Any) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        maps = (q @ k.mT * self.scale).softmax(-1)
        maps = maps * (maps >= maps.topk(8).values[..., -1:])
        return self.proj((v.mT @ (maps / maps.sum(-1, keepdim=True)).mT).mT.transpose(1, 2).flatten(2))


OURS, TIMMS = "vit_posattn_tiny_patch16_224", "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (TIMMS, lambda block: knocked_out(block.attn)),
        (TIMMS, lambda block: knocked_out(block.attn, in_place=True)),
        (TIMMS, lambda block: setattr(block, "attn", Renormalised(48, 3))),
        (OURS, lambda block: knocked_out(block.attn)),
    ],
)
def test_maps_that_are_changed_after_their_softmax_are_refused(name: str, change: Any) -> None:
    """Those of the softmax were reported, which the model does not mix its values by."""
    options: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}
    model = timm.create_model(name, **options).eval()
    change(model.blocks[1])
    table = inspect_attention(model, images())
    assert table.attrs["layers"] == ["blocks.0.attn"]
    assert "it changes its maps after their softmax" in table.attrs["unobserved"]["blocks.1.attn"]


def test_hooks_that_only_look_and_other_types_are_no_changes() -> None:
    """A head may be as wide as there are tokens, and maps cast or copied before they mix the values."""
    options: dict[str, Any] = {"depth": 1, "embed_dim": 51, "num_heads": 3, "img_size": 64}
    model = timm.create_model("vit_tiny_patch16_224", **options).eval()
    expected = inspect_attention(model, images())
    attn, seen = model.blocks[0].attn, []
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda _, given, maps: seen.append(maps))
    pd.testing.assert_frame_equal(inspect_attention(model, images()), expected, atol=1e-5)
    attn.attn_drop.register_forward_hook(lambda _, given, maps: maps.double().clone().float())
    pd.testing.assert_frame_equal(inspect_attention(model, images()), expected, atol=1e-5)
    assert seen

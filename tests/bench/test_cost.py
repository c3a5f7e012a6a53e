"""Counts against counts by hand."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401
from posattn.bench.cost import multiply_adds, peak_memory
from posattn.vision.models.freeze import freeze_attention

VIT, OURS, HYBRID = (f"vit_{kind}tiny_patch16_224" for kind in ("", "posattn_", "posattn_hybrid_"))
TOY = {"img_size": 64, "patch_size": 4, "num_classes": 7, "embed_dim": 24, "depth": 3, "num_heads": 2}
N, D, B, DEPTH = 16 * 16, 24, 2, 3
MLP = 8 * D * D  # of a token: two layers, four times as wide


def by_hand(tokens: int, attention: int) -> int:
    """Patches, then in each block the projections of attention given and an MLP four times as wide, then the head."""
    return whole(tokens * MLP + attention)


def whole(*blocks: int) -> int:
    """A batch: patches, the given cost of each block (or of one that all are alike), and the head."""
    of_blocks = sum(blocks) * (DEPTH if len(blocks) == 1 else 1)
    return B * (N * 4 * 4 * 3 * D + of_blocks + 7 * D)


def images(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(B, 3, 64, 64, dtype=dtype)


def fuse(model: nn.Module, fused: bool) -> nn.Module:
    layers: Any = [m for m in model.modules() if hasattr(m, "fused_attn")]
    for layer in layers:
        layer.fused_attn = fused
    assert layers
    return model


def content(T: int) -> int:
    """Q, K, V and the output's projection, scores and their product with the values."""
    return 4 * T * D * D + 2 * T * T * D


def positional(T: int) -> int:
    """V and the output's projection, and one product with the maps."""
    return 2 * T * D * D + T * T * D


def in_each_block(T: int) -> int:
    """Scores out of encodings, once a batch: Q, K and their product."""
    return 2 * T * D * D + T * T * D


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False])
def test_a_stock_vit(fused: bool, dtype: torch.dtype) -> None:
    T = N + 1
    vit = fuse(timm.create_model(VIT, **TOY), fused).to(dtype)
    assert multiply_adds(vit, images(dtype)) == by_hand(T, content(T))
    assert vit.training


def test_a_stock_vit_without_memory() -> None:
    with torch.device("meta"):
        vit = timm.create_model(VIT, **TOY)
    assert multiply_adds(vit, images().to("meta")) == by_hand(N + 1, content(N + 1))


def test_a_vit_that_pools_by_attention() -> None:
    """As SigLIP's; torch's counter fails at its latent token, a view of a parameter."""
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(32, 48),
        patch_size=8,
        embed_dim=32,
        num_heads=2,
        depth=1,
        num_classes=3,
        class_token=False,
        global_pool="map",
    )
    n, tokens, width = 2, 24, 32
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    pooled = 10 * width**2 + 2 * tokens * (width**2 + width)  # query, output and MLP; keys, values and scores
    expected = tokens * 3 * 64 * width + block + pooled + 3 * width
    assert multiply_adds(vit, torch.zeros(n, 3, 32, 48)) == n * expected
    assert all(parameter.requires_grad for parameter in vit.parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_a_hybrid(fused: bool) -> None:
    model = timm.create_model(HYBRID, **TOY)
    two, last = N * MLP + positional(N), N * MLP + content(N)
    frozen = fuse(freeze_attention(model), fused)
    assert multiply_adds(frozen, images()) == whole(two, two, last)
    assert multiply_adds(fuse(model, fused), images()) == whole(two, two, last) + 2 * in_each_block(N)


@pytest.mark.parametrize("keep", [None, 4])
def test_frozen_attention_has_one_product_and_pruned_attention_a_part_of_it(keep: int | None) -> None:
    model = freeze_attention(timm.create_model(OURS, **TOY), keep)
    assert (model.blocks[0].attn.indices is None) == (keep is None)
    assert multiply_adds(model, images()) == by_hand(N, 2 * N * D * D + N * (keep or N) * D)


@pytest.mark.parametrize("scores", ["relative", "table"])
@pytest.mark.parametrize("prefix", [0, 3])
def test_scores_out_of_a_table_cost_no_product(scores: str, prefix: int) -> None:
    tokens = {"class_token": prefix > 0, "reg_tokens": max(0, prefix - 1)}
    model = timm.create_model(OURS, scores=scores, **tokens, **TOY)
    assert multiply_adds(model, images()) == by_hand(N + prefix, positional(N + prefix))


def test_maps_are_counted_once_a_forward_whether_kept_or_not() -> None:
    model = timm.create_model(OURS, **TOY).eval()
    with torch.no_grad():
        model(images())
    assert multiply_adds(model, images()) == by_hand(N, positional(N)) + DEPTH * in_each_block(N)
    with torch.device("meta"):
        model = timm.create_model(OURS, **TOY)
    expected = by_hand(N, positional(N)) + DEPTH * in_each_block(N)
    assert multiply_adds(model, images().to("meta")) == expected


def test_convit() -> None:
    """Two blocks of gated positional attention without the class token, one of stock attention with it."""
    gated = N * MLP + content(N) + 3 * 2 * N * N
    heads = {"embed_dim": D // 2, "num_heads": 2}  # its width is their product
    convit = timm.create_model("convit_tiny", **TOY | heads, local_up_to_layer=2)
    assert multiply_adds(convit, images()) == whole(gated, gated, (N + 1) * MLP + content(N + 1))


@pytest.mark.parametrize(
    ("model", "depth", "width", "block"),
    [
        ("gmlp_ti16_224", 30, 128, lambda T, d: T * d * 9 * d + T * T * 3 * d),
        ("resmlp_12_224", 12, 384, lambda T, d: T * 8 * d * d + T * T * d),
        ("mixer_s16_224", 8, 512, lambda T, d: T * 8 * d * d + 2 * T * (d // 2) * d),
    ],
)
def test_mixers_of_tokens(model: str, depth: int, width: int, block: Any) -> None:
    T = 14 * 14
    expected = T * 16 * 16 * 3 * width + depth * block(T, width) + 7 * width
    with torch.device("meta"):
        mixer = timm.create_model(model, num_classes=7)
    assert multiply_adds(mixer, torch.zeros(1, 3, 224, 224, device="meta")) == expected


class Attention(nn.Module):
    """Attention of 5 queries to 7 keys, of 3 heads, with values of another width than the keys where it may be."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__()
        self.width, self.options = width, options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (torch.randn(len(x), 3, T, w) for T, w in ((5, 8), (7, 8), (7, self.width)))
        return F.scaled_dot_product_attention(query, key, value, **self.options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attn_mask": torch.ones(5, 7).tril().bool()},
        {"attn_mask": torch.randn(2, 1, 5, 7)},
        {"is_causal": True},
        {"dropout_p": 0.5},
    ],
    ids=["plain", "boolean mask", "mask of numbers", "causal", "dropout"],
)
@pytest.mark.parametrize("width", [8, 16])
def test_attention_with_masks_counts_all_scores(options: dict[str, Any], width: int) -> None:
    assert multiply_adds(Attention(width, **options), torch.zeros(2)) == 2 * 3 * 5 * 7 * (8 + width)


class Calling(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("aten::_cdist_forward", lambda x: torch.cdist(x, x)),
        ("aten::_trilinear", lambda x: F.bilinear(x, x, x.new_ones(3, 6, 6))),
        ("aten::_native_multi_head_attention", nn.MultiheadAttention(6, 2, batch_first=True).eval()),
        ("aten::_int_mm", lambda x: torch._int_mm(*2 * [torch.ones(32, 32, dtype=torch.int8)])),
        ("posattn_test::attention", lambda x: torch.ops.posattn_test.attention(x, x)),
    ],
)
def test_an_operator_that_is_not_counted_is_named(name: str, call: Any) -> None:
    call = call if not isinstance(call, nn.Module) else lambda x, layer=call: layer(x, x, x)[0]
    with pytest.raises(NotImplementedError, match=name):
        multiply_adds(Calling(call), torch.randn(2, 5, 6))


@torch.library.custom_op("posattn_test::attention", mutates_args=())
def attention_of_another_library(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query @ key.mT


def test_what_multiplies_no_matrices_is_nothing() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x, (6,), torch.ones(6)) * x.sigmoid() + torch.cat([x, x], 1)[:, :5]
        x = F.group_norm(x, 5, torch.ones(5), torch.ones(5)).where(x > 0, x)
        x[:, [0, 2]] = x[:, [1, 3]]
        x = x.scatter(1, torch.zeros(2, 1, 6).long(), x).lerp(x, 0.5).addcmul(x, x)
        return F.embedding(torch.tensor([1, 2]), x[0]).softmax(-1)

    assert multiply_adds(Calling(call), torch.randn(2, 5, 6)) == 0


def test_peak_memory_is_what_was_held_at_once() -> None:
    def work() -> None:
        a = torch.empty(1000, 1000)
        b = torch.empty(500, 1000)
        del a
        torch.empty(600, 1000)
        del b

    assert peak_memory(work) == 4 * 1_500_000


def test_peak_memory_of_training_holds_what_the_backward_needs() -> None:
    layers = nn.Sequential(*(nn.Sigmoid() for _ in range(4)))
    x = torch.randn(1000, 64, requires_grad=True)
    with torch.no_grad():
        forward = peak_memory(lambda: layers(x))
    training = peak_memory(lambda: layers(x).sum().backward())
    one = 4 * 1000 * 64
    assert forward == 2 * one
    assert training >= 4 * one


def test_peak_memory_is_that_of_the_named_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second GPU's memory was read from the first; there is none here, so torch's counters are stand-ins."""
    held = {"cuda:0": 5, "cuda:1": 7}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device="cuda:0": None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device="cuda:0": held[str(device)])
    for device in (torch.device("cuda:1"), "cuda:1"):
        assert peak_memory(lambda: held.update({"cuda:1": held["cuda:1"] + 3}), device) == 3


def test_work_that_allocates_nothing_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(RuntimeError, match="recorded no allocation"):
        peak_memory(lambda: None)

"""Counts against counts by hand."""

import pytest
import timm
import torch
from torch import nn

import posattn.vision.models.vision_transformer_posattn  # noqa: F401
from posattn.bench.cost import multiply_adds, peak_memory
from posattn.vision.models.freeze import freeze_attention

TOY = {"img_size": 64, "patch_size": 4, "num_classes": 7, "embed_dim": 24, "depth": 3, "num_heads": 2}
N, D, B = 16 * 16, 24, 2


def by_hand(tokens: int, attention: int) -> int:
    """Patches, then in each block the projections of attention given and an MLP four times as wide, then the head."""
    return B * (N * 4 * 4 * 3 * D + 3 * (attention + 8 * tokens * D * D) + 7 * D)


def images() -> torch.Tensor:
    return torch.randn(B, 3, 64, 64)


def test_a_stock_vit() -> None:
    T = N + 1
    vit = timm.create_model("vit_tiny_patch16_224", **TOY)
    assert multiply_adds(vit, images()) == by_hand(T, 4 * T * D * D + 2 * T * T * D)
    assert vit.training


@pytest.mark.parametrize("keep", [None, 4])
def test_frozen_attention_has_one_product_and_pruned_attention_a_part_of_it(keep: int | None) -> None:
    model = freeze_attention(timm.create_model("vit_posattn_tiny_patch16_224", **TOY), keep)
    assert (model.blocks[0].attn.indices is None) == (keep is None)
    assert multiply_adds(model, images()) == by_hand(N, 2 * N * D * D + N * (keep or N) * D)


def test_maps_are_counted_once_a_forward_whether_kept_or_not() -> None:
    model = timm.create_model("vit_posattn_tiny_patch16_224", **TOY).eval()
    scores = 3 * (2 * N * D * D + N * N * D)  # Q, K and their product, once a batch
    with torch.no_grad():
        model(images())
    assert multiply_adds(model, images()) == by_hand(N, 2 * N * D * D + N * N * D) + scores
    with torch.device("meta"):
        model = timm.create_model("vit_posattn_tiny_patch16_224", **TOY)
    assert multiply_adds(model, images().to("meta")) == by_hand(N, 2 * N * D * D + N * N * D) + scores


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

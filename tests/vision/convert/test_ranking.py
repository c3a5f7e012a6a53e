"""Heads ranked by how much they need content, on ViTs whose answer is known."""

import pytest
import timm
import torch

from posattn.vision.convert.maps import average_maps
from posattn.vision.convert.ranking import accuracy_over_replaced, content_needs, outcomes
from posattn.vision.data.images import ImageSet, to_float
from posattn.vision.models.concentration import top_mass

TOY = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
}


@pytest.fixture
def case() -> tuple:
    """A ViT whose head 1 of block 0 alone attends by content, and images labelled by what it says."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **TOY).eval()
    for parameter in vit.parameters():
        parameter.data.normal_(std=0.5)
    for block in vit.blocks:
        block.attn.qkv.weight.data[:16] = 0  # no query: uniform attention
        block.attn.qkv.bias.data[:16] = 0
    vit.blocks[0].attn.qkv.weight.data[8:16].normal_(std=2)
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        vit.head.bias -= vit(to_float(images)).mean(0)  # every class is near to every image
        labels = vit(to_float(images)).argmax(-1)
    return vit, ImageSet("toy", images, labels, tuple("abcde"))


def test_the_head_that_needs_content_is_last(case: tuple) -> None:
    vit, image_set = case
    maps = average_maps(vit, to_float(image_set.images), [0, 1])
    needs = content_needs(vit, maps, image_set)
    assert (needs[-1].block, needs[-1].head) == (0, 1)
    assert needs[-1].drop > 0
    assert [need.drop for need in needs[:-1]] == [0.0] * 3  # uniform attention is its own average
    assert all(abs(need.loss) < 1e-5 for need in needs[:-1])
    p = needs[-1].drop  # a share of 64 images, none of which becomes right
    assert needs[-1].stderr == pytest.approx((p * (1 - p) / 63) ** 0.5)


def test_accuracy_falls_where_the_head_falls(case: tuple) -> None:
    vit, image_set = case
    maps = average_maps(vit, to_float(image_set.images), [0, 1])
    order = [(1, 0), (0, 0), (0, 1), (1, 1)]
    found = accuracy_over_replaced(vit, maps, order, image_set)
    assert found[:3] == [1.0] * 3
    assert found[3] == found[4] < 1.0
    assert accuracy_over_replaced(vit, maps, order[::-1], image_set)[-1] == found[-1]


def test_outcomes_are_in_the_order_of_the_images(case: tuple) -> None:
    vit, image_set = case
    half = outcomes(vit, {}, [{}], image_set.select(torch.arange(32, 64)))[0]
    assert torch.allclose(outcomes(vit, {}, [{}], image_set)[0].loss[32:], half.loss, atol=1e-5)


def test_top_mass_against_the_definition() -> None:
    maps = torch.rand(3, 2, 6, 6, dtype=torch.double).softmax(-1)
    found = top_mass(maps, (1, 4, 6))
    for layer in range(3):
        for column, k in enumerate((1, 4, 6)):
            by_hand = sum(sum(sorted(row.tolist())[-k:]) for row in maps[layer].reshape(-1, 6)) / 12
            assert found[layer, column].item() == pytest.approx(by_hand)
    assert torch.allclose(top_mass(torch.eye(4)[None, None], (1, 2)), torch.ones(1, 2))
    for k in (0, 7):
        with pytest.raises(ValueError, match=str(k)):
            top_mass(maps, (k,))

"""The defining properties of mimetic initialisation, by the products of the weights that a model ends with."""

import pytest
import timm
import torch
from torch import Tensor

from posattn.vision.grid import Grid, distances
from posattn.vision.models.mimetic import init_mimetic


def started(width: int = 192, heads: int = 3, **options: object) -> torch.nn.Module:
    torch.manual_seed(3)
    sizes = {"img_size": (24, 32), "patch_size": 4, "embed_dim": width, "depth": 2, "num_heads": heads}
    return init_mimetic(timm.create_model("vit_tiny_patch16_224", **sizes | options))


def of_identity(product: Tensor) -> float:
    return (product.diagonal().mean()).item()


def test_values_and_projection_are_near_minus_the_identity() -> None:
    for block in started().blocks:
        *_, value = block.attn.qkv.weight.T.split(192, 1)
        product = value @ block.attn.proj.weight.T  # x @ W_V @ W_proj
        assert of_identity(product) == pytest.approx(-0.4, abs=0.02)
        noise = product + 0.4 * torch.eye(192)
        assert noise.std().item() * 192**0.5 == pytest.approx(0.4, rel=0.03)
        assert value.norm().item() == pytest.approx(block.attn.proj.weight.norm().item(), rel=1e-3)


def test_queries_and_keys_of_every_head_are_the_best_of_their_rank() -> None:
    """W_Q W_Kᵀ has the identity's share and rank d_h, and balanced factors; heads are drawn apart."""
    traces = []
    for block in started().blocks:
        query, key, _ = block.attn.qkv.weight.T.split(192, 1)
        for q, k in zip(query.split(64, 1), key.split(64, 1), strict=True):
            product = q @ k.T
            assert torch.linalg.matrix_rank(product) == 64
            torch.testing.assert_close(q.T @ q, k.T @ k, atol=1e-4, rtol=1e-4)
            values = torch.linalg.svdvals(product)[:64]
            assert values.min() > 0.7  # the largest third of the singular values of 0.7 Z + 0.7 I
            traces.append(product.trace().item())
    assert min(traces) > 0.3 * 0.7 * 192
    assert len(set(traces)) == 6


def test_tokens_attend_to_themselves_and_to_near_ones() -> None:
    """With the position embeddings as the input alone, the attention of the first layer falls with the distance."""
    model = started(128, 4, class_token=False, global_pool="avg")
    block = model.blocks[0]
    query, key, _ = (
        block.attn.qkv(block.norm1(model.pos_embed)).unflatten(-1, (3, 4, 32)).permute(2, 0, 3, 1, 4)
    )
    maps = (query @ key.transpose(-1, -2) * block.attn.scale).softmax(-1)[0].mean(0)
    apart = distances(Grid(6, 8))
    assert maps[apart <= 1].mean() > 2 * maps[apart > 4].mean()
    assert (maps.argmax(1) == torch.arange(48)).double().mean() > 0.7


def test_positions_are_sines_of_unit_amplitude_and_prefix_tokens_have_none() -> None:
    positions = started(reg_tokens=2).pos_embed
    assert positions.requires_grad
    prefix = positions.shape[1] - 48
    assert not positions[0, :prefix].any()
    patches = positions[0, prefix:]
    torch.testing.assert_close(patches.square().sum(1), torch.full((48,), 192 / 2))  # sin² + cos²
    assert len(torch.unique(patches, dim=0)) == 48


def test_everything_is_trained_and_the_seed_decides() -> None:
    model, again = started(), started()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not model.blocks[0].attn.qkv.bias.any()
    model(torch.randn(2, 3, 24, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_it_is_not_for() -> None:
    with pytest.raises(ValueError, match="multiple of 4 for sines and cosines, got 18"):
        started(18, 3)
    with pytest.raises(ValueError, match="block 0 must have timm's Attention, got PositionalAttention"):
        init_mimetic(timm.create_model("vit_posattn_tiny_patch16_224", depth=1))

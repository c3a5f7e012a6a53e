"""Conversion of content-based heads to their average maps."""

import copy

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.averages import average_maps
from posattn.vision.convert.maps import to_positional
from posattn.vision.models.attention import PositionalAttention
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

TINY = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "num_classes": 5,
}
KINDS = {
    "class token": {},
    "registers": {"reg_tokens": 2},
    "qk-norm": {"qk_norm": True, "scale_attn_norm": True},
    "average": {"class_token": False, "global_pool": "avg", "init_values": 0.1},
    "no bias": {"qkv_bias": False, "proj_bias": False},
}
CHOICES = {
    "all": {},
    "blocks": {"blocks": [0, 2]},
    "heads": {"heads": [2, 0]},
    "both": {"blocks": [1], "heads": [1]},
    "mapping": {"heads": {0: [1], 2: [0, 1, 2]}},
}


def make(**options: object) -> VisionTransformer:
    """A ViT whose attention is far from uniform."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **{**TINY, **options}).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vit


def images(batch: int = 9, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def zero_queries(vit: VisionTransformer) -> VisionTransformer:
    with torch.no_grad():
        for block in vit.blocks:
            for parameter in block.attn.qkv.parameters():
                parameter[: block.attn.attn_dim] = 0
            for parameter in block.attn.q_norm.parameters():
                parameter.zero_()
    return vit


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_where_attention_is_uniform(kind: str, choice: str) -> None:
    vit = zero_queries(make(**KINDS[kind]).double())
    model = to_positional(vit, images(dtype=torch.float64), **CHOICES[choice])
    other = images(4, torch.float64) + 1
    torch.testing.assert_close(model(other), vit(other), atol=1e-6, rtol=1e-6)  # maps are float32


@pytest.mark.parametrize("choice", CHOICES)
def test_exact_where_attention_is_positional(choice: str) -> None:
    """Q and K read channels that hold the position embedding and nothing of the image, in all blocks."""
    vit = make(norm_layer=nn.Identity)
    place = slice(12, 24)
    with torch.no_grad():
        vit.pos_embed.mul_(3)
        vit.patch_embed.proj.weight[place] = 0
        vit.patch_embed.proj.bias[place] = 0
        for block in vit.blocks:
            block.attn.qkv.weight[: 2 * 24, :12] = 0
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight[place] = 0
                layer.bias[place] = 0
        maps = average_maps(vit, images(), [0, 1, 2])
        assert maps[1].amax() > 0.1  # far from uniform, 1/17
        model = to_positional(vit, images(), **CHOICES[choice])
        other = images(4) + 1
        torch.testing.assert_close(model(other), vit(other), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(vit(other)[:1], vit(other)[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_average_of_what_the_unfused_layer_attends_to(kind: str) -> None:
    vit = make(**KINDS[kind])
    found = average_maps(vit, images(), [0, 2])
    unfused, seen = copy.deepcopy(vit), {}
    for number in (0, 2):
        attn = unfused.blocks[number].attn
        attn.fused_attn = False
        attn.attn_drop.register_forward_hook(lambda _, inputs, output, n=number: seen.update({n: output}))
    with torch.no_grad():
        unfused(images())
    for number, maps in found.items():
        torch.testing.assert_close(maps, seen[number].mean(0))
    assert vit.blocks[0].attn.fused_attn
    assert not vit.blocks[0].attn._forward_pre_hooks


def test_a_stream_counts_every_image_the_same() -> None:
    vit, x = make(), images(9)
    at_once = average_maps(vit, x, [1])[1]
    streams = (iter([x[:2], x[2:9]]), [(x[:5], torch.zeros(5)), (x[5:], torch.zeros(4))])
    for stream in streams:
        torch.testing.assert_close(average_maps(vit, stream, [1])[1], at_once)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_that_stay_attend_by_content_as_before(kind: str) -> None:
    """With the maps of one image, the converted model agrees on that image and not on others."""
    vit = make(**KINDS[kind])
    with torch.no_grad():
        for heads in ({0: [1]}, {1: [0, 2]}, {0: [2, 1], 2: [0]}):
            model = to_positional(vit, images(1), heads=heads)
            torch.testing.assert_close(model(images(1)), vit(images(1)), atol=1e-4, rtol=1e-4)
            assert not torch.allclose(model(images(4)), vit(images(4)), atol=1e-3)
            for number, block in enumerate(model.blocks):
                assert isinstance(block.attn, ConvertedAttention) == (number in heads)


def test_the_original_is_left_alone_and_modes_are_kept() -> None:
    vit = make(drop_path_rate=0.5).train()
    vit.blocks[1].eval()
    state = {k: v.clone() for k, v in vit.state_dict().items()}
    model = to_positional(vit, images())
    assert vit.training
    assert not vit.blocks[1].training
    assert model.training
    assert all(torch.equal(v, state[k]) for k, v in vit.state_dict().items())
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in vit.parameters())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_converted_model_is_a_timm_model(choice: str) -> None:
    vit = make(drop_rate=0.1, attn_drop_rate=0.1)
    model = to_positional(vit, images(), **CHOICES[choice])
    assert isinstance(model, VisionTransformer)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in vit.parameters())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = images(8), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in model.parameters())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items() if k.endswith("maps.maps"))
    again = to_positional(vit, images(2), **CHOICES[choice]).eval()
    again.load_state_dict(model.state_dict())
    model.eval()
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
        traced = timm.models.create_feature_extractor(model, {"head": "out"})
        assert torch.equal(traced(x)["out"], model(x))
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
        torch.testing.assert_close(freeze_attention(model)(x), model(x))
    assert len(model.forward_intermediates(x)[1]) == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_converted_model_scripts() -> None:
    model = to_positional(make(qk_norm=True), images(), heads={0: [1], 1: [0, 1, 2]})
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(images()), model(images()))


def test_a_hybrid_can_be_converted_on() -> None:
    torch.manual_seed(0)
    hybrid = timm.create_model("vit_posattn_hybrid_tiny_patch4_32", **TINY).eval()
    model = to_positional(hybrid, images(1))
    assert isinstance(model, VisionTransformerPosAttn)
    assert all(isinstance(block.attn, PositionalAttention) for block in model.blocks)
    with torch.no_grad():
        torch.testing.assert_close(model(images(1)), hybrid(images(1)))
        assert model.attention_maps().shape == (3, 3, 16, 16)


def test_bfloat16() -> None:
    vit = zero_queries(make()).bfloat16()
    model = to_positional(vit, images(), heads=[0, 2])
    x = images(dtype=torch.bfloat16)
    torch.testing.assert_close(model(x), vit(x), atol=0.1, rtol=0.1)
    assert all(t.dtype == torch.bfloat16 for t in model.state_dict().values())


def test_another_image_size_is_refused() -> None:
    model = to_positional(make(), images(), heads={1: [0]})
    model.set_input_size(img_size=(8, 12))
    with pytest.raises(ValueError, match=r"tables are for a grid of \(4, 4\), the model's is .* now"):
        model(torch.zeros(1, 1, 8, 12))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(0, 1, 8, 8)}, ValueError, "images is empty"),
        ({"images": iter([])}, ValueError, "images is empty"),
        ({"images": torch.zeros(1, 8, 8)}, ValueError, r"images must be \(n, c, H, W\), got \(1, 8, 8\)"),
        (
            {"blocks": [3]},
            ValueError,
            "block 3 has no attention to convert; content-based are blocks: 0, 1, 2",
        ),
        ({"blocks": [True]}, TypeError, "block must be an integer, got True"),
        ({"heads": [3]}, ValueError, r"block 0 has heads 0..2, got 3"),
        ({"heads": {1: [-1]}}, ValueError, r"block 1 has heads 0..2, got -1"),
        ({"heads": {1: [0]}, "blocks": [0]}, ValueError, r"heads names its blocks already, got blocks=\[0\]"),
        (
            {"vit": nn.Linear(1, 1)},
            TypeError,
            "Linear is not supported: Linear has no attention that is known",
        ),
        (
            {"vit": make(attn_layer="diff", num_heads=2)},
            TypeError,
            r"blocks.0.attn \(DiffAttention\) is not supported",
        ),
        (
            {"images": torch.full((1, 1, 8, 8), torch.nan)},
            ValueError,
            "average attention of block 0 is not finite",
        ),
    ],
)
def test_bad_input(arguments: dict, error: type[Exception], message: str) -> None:
    call = {"vit": make(), "images": images(), **arguments}
    with pytest.raises(error, match=message):
        to_positional(**call)

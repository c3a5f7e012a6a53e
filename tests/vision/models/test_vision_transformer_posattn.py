"""Everything a timm model does, for every name and score kind, in float32 and bfloat16."""

import copy

import pytest
import timm
import torch
from small_vits import NAMES, PREFIX, images, make
from timm.models._features import FeatureGetterNet
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3, freeze

from posattn.vision.models.attention import PositionalAttention
from posattn.vision.models.scores import SCORES


def test_the_names_of_the_design_exist_at_their_sizes() -> None:
    wanted = {
        "tiny_patch16_224": (192, 196), "small_patch16_224": (384, 196), "base_patch16_224": (768, 196),
        "tiny_patch16_384": (192, 576), "tiny_patch4_32": (192, 64), "small_patch4_32": (384, 64),
        "hybrid_tiny_patch16_224": (192, 196), "hybrid_small_patch16_224": (384, 196),
        "hybrid_base_patch16_224": (768, 196), "hybrid_tiny_patch4_32": (192, 64),
        "hybrid_small_patch4_32": (384, 64),
    }  # fmt: skip
    assert set(NAMES) == {f"vit_posattn_{name}" for name in wanted}
    for name, (dim, patches) in wanted.items():
        model = timm.create_model(f"vit_posattn_{name}", device="meta")
        assert (model.embed_dim, model.patch_embed.num_patches, len(model.blocks)) == (dim, patches, 12)
        assert len(model.positional_layers()) == (6 if "hybrid" in name else 12)
        assert model.pretrained_cfg["input_size"][-1] == model.patch_embed.img_size[0]
        assert not model.has_class_token
        assert model.global_pool == "avg"


FULL_SIZE = [(name, "encodings") for name in NAMES]
FULL_SIZE += [(f"vit_posattn_{name}", scores) for name in ("tiny_patch4_32", "hybrid_tiny_patch16_224")
              for scores in ("relative", "table")]  # fmt: skip


@pytest.mark.parametrize(("name", "scores"), FULL_SIZE)
def test_full_size_models_on_meta_have_the_parameters_they_should(name: str, scores: str) -> None:
    """A stock ViT's, less Q and K of the positional blocks, plus the scores."""
    model = timm.create_model(name, scores=scores, device="meta")
    size, D, h, depth = model.patch_embed.img_size, model.embed_dim, model.blocks[0].attn.num_heads, 12
    assert model(torch.empty(2, 3, *size, device="meta")).shape == (2, 1000)
    stock = VisionTransformer(
        size, model.patch_embed.patch_size, embed_dim=D, depth=depth, num_heads=h,
        class_token=False, global_pool="avg", device="meta",
    )  # fmt: skip
    N, layers = model.patch_embed.num_patches, len(model.positional_layers())
    own = {"encodings": N * D + layers * 2 * D * D, "relative": layers * h * (2 * N**0.5 - 1) ** 2}
    own["table"] = layers * h * N * N
    count = sum(p.numel() for p in stock.parameters()) - layers * 2 * (D * D + D) + own[scores]
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", NAMES)
def test_every_name_runs_and_every_parameter_learns(name: str, dtype: torch.dtype) -> None:
    for scores in SCORES:
        for prefix in ({}, PREFIX):
            model = make(name, scores=scores, dtype=dtype, **prefix).train()
            model(images(dtype=dtype)).float().square().sum().backward()
            for parameter_name, parameter in model.named_parameters():
                assert parameter.grad is not None, parameter_name
                assert parameter.grad.isfinite().all(), parameter_name


def test_layer_of_the_paper(options: dict[str, object]) -> None:
    """A block's attention is concat_h(S^h X W_V^h) W_O, written out head by head in float64."""
    model = make(**options, **PREFIX, dtype=torch.float64)
    attn, x = model.blocks[0].attn, torch.randn(3, 19, 16, dtype=torch.float64)
    maps = model.attention_maps()[0]
    values = attn.v(x)
    heads = [torch.einsum("ij,njd->nid", maps[h], values[..., 8 * h : 8 * h + 8]) for h in range(2)]
    torch.testing.assert_close(attn(x), torch.cat(heads, -1) @ attn.proj.weight.T + attn.proj.bias)
    assert len(model.attention_maps()) == options["positional_blocks"]


def test_maps_do_not_depend_on_the_image_and_the_block_is_linear_in_it(options: dict[str, object]) -> None:
    attn = make(**options, dtype=torch.float64).blocks[0].attn
    x, y = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    zero = attn(torch.zeros_like(x))
    torch.testing.assert_close(attn(2 * x - 3 * y) - zero, 2 * (attn(x) - zero) - 3 * (attn(y) - zero))


def test_tokens_reach_the_blocks_contiguous(options: dict[str, object]) -> None:
    """With and without the concatenation of a class token, which alone would see to it in timm's ViT."""
    for prefix in ({}, PREFIX):
        model = make(**options, **prefix)
        strides: list[bool] = []
        model.norm_pre.register_forward_hook(lambda _, x, y, seen=strides: seen.append(y.is_contiguous()))
        model.blocks.register_forward_hook(lambda _, x, y, seen=strides: seen.append(y.is_contiguous()))
        model(images())
        assert strides == [True, True]


def test_one_image_alone_and_in_a_batch(options: dict[str, object]) -> None:
    model = make(**options)
    torch.testing.assert_close(model(images())[1:2], model(images()[1:2]))


def test_drop_rates(options: dict[str, object], dtype: torch.dtype) -> None:
    names = ("drop_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "drop_path_rate")
    for name in names:
        model = make(**options, dtype=dtype, **{name: 0.5}).train()
        if name == "attn_drop_rate":
            model.blocks[1].attn.attn_drop.p = 0.0  # what changes must be the positional block
        assert not torch.equal(model(images(dtype=dtype)), model(images(dtype=dtype))), name
        model.eval()
        assert torch.equal(model(images(dtype=dtype)), model(images(dtype=dtype))), name


def test_classifier(options: dict[str, object], dtype: torch.dtype) -> None:
    model = make(**options, dtype=dtype)
    assert model.get_classifier() is model.head
    features = model.forward_features(images(dtype=dtype))
    assert features.shape == (3, 16, 16)
    assert model.forward_head(features, pre_logits=True).shape == (3, 16)
    model.reset_classifier(7)
    assert model(images(dtype=dtype)).shape == (3, 7)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images(dtype=dtype)), model.fc_norm(features))


def test_intermediates_and_features_only(options: dict[str, object], dtype: torch.dtype) -> None:
    model = make(**options, **PREFIX, dtype=dtype)
    x = images(dtype=dtype)
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert [m.shape for m in maps] == [(3, 16, 4, 4)] * 2
    getter = make(**options, **PREFIX, dtype=dtype, features_only=True, out_indices=(0, 1))
    assert isinstance(getter, FeatureGetterNet)
    for mine, theirs in zip(getter(x), maps, strict=True):
        assert torch.equal(mine, theirs)
    assert getter.feature_info.channels() == [16, 16]
    assert getter.feature_info.reduction() == [2, 2]
    model.prune_intermediate_layers([0], prune_head=True)
    assert torch.equal(model.forward_intermediates(x, [0], intermediates_only=True)[0], maps[0])


def test_weight_decay_and_layer_decay(options: dict[str, object]) -> None:
    model = make(**options, **PREFIX)
    names = {name for name, _ in model.named_parameters()}
    spared = model.no_weight_decay() & names
    tables = {n for n in names if "table" in n or "prefix" in n or n == "pos_encodings.weight"}
    assert spared == {"pos_embed", "cls_token", "reg_token"} | tables
    groups = param_groups_layer_decay(model, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    assert scale[id(model.head.weight)] == 1
    for i, block in enumerate(model.blocks):
        assert {scale[id(p)] for p in block.parameters()} == {0.5 ** (2 - i)}
    if options["scores"] == "encodings":
        assert scale[id(model.pos_encodings.weight)] == scale[id(model.pos_embed)] == 0.5**3


def test_gradient_checkpointing_gives_the_same_gradients(
    options: dict[str, object], dtype: torch.dtype
) -> None:
    model = make(**options, dtype=dtype).train()
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    for m in (model, other):
        m(images(dtype=dtype)).float().square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


def test_meta_construction_then_init_is_an_ordinary_start(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = make(**options, **PREFIX, device="meta").to_empty(device="cpu")
    model.init_weights()
    for (name, got), wanted in zip(
        model.named_parameters(), make(**options, **PREFIX).parameters(), strict=True
    ):
        assert got.isfinite().all(), name
        if wanted.numel() > 60:
            assert got.std().item() == pytest.approx(wanted.std().item(), rel=0.5, abs=1e-5), name
    assert model(images()).isfinite().all()


def test_ema_freeze_and_optimizer_of_timm(options: dict[str, object]) -> None:
    """A short run as timm trains: the loss falls, the average follows, layers can be held."""
    model = make(**options).train()
    ema = ModelEmaV3(model, decay=0.5)
    freeze(model, "blocks.0.attn")
    held = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("blocks.0.attn")}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
    x, y = images(32), torch.arange(32) % 5
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(model.state_dict()[k], v) for k, v in held.items())
    assert not torch.equal(ema.module(x), model.eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": "sines"}, "unknown scores 'sines'; known: encodings, frozen, relative, table"),
        ({"score_std": -1.0}, "score_std must be a finite number of at least 0, got -1.0"),
        ({"num_heads": 3}, "num_heads must divide dim, got num_heads=3, dim=16"),
        ({"positional_blocks": 3}, "positional_blocks must be at most depth=2, got 3"),
        ({"positional_blocks": 0}, "positional_blocks must be at least 1, got 0"),
        ({"dynamic_img_size": True}, "constant tokens, got dynamic_img_size=True"),
        ({"patch_drop_rate": 0.1}, "constant tokens, got patch_drop_rate=0.1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_input() -> None:
    model = make()
    with pytest.raises(ValueError, match="attention maps are for 16 tokens, got 9"):
        model.blocks[0].attn(torch.zeros(1, 9, 16))
    with pytest.raises(ValueError, match="takes no mask"):
        model(images(), is_causal=True)
    with pytest.raises(ValueError, match="qk_norm and scale_norm need a norm_layer"):
        PositionalAttention(16, 2, qk_norm=True)


def test_it_is_timms_vit() -> None:
    assert isinstance(make(), VisionTransformer)

"""Heads of every kind, in every timm ViT whose heads can be replaced."""

import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

from posattn.bench.cost import multiply_adds
from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.averages import average_maps
from posattn.vision.convert.heads import KINDS
from posattn.vision.convert.maps import to_positional
from posattn.vision.inspect.inspection import inspect_attention
from posattn.vision.inspect.watch import watch_attention
from posattn.vision.models.freeze import freeze_attention

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
DYNAMIC = {"dynamic_img_size": False}
MODELS = {
    "deit": ("deit_tiny_distilled_patch16_224", SMALL),
    "registers": ("vit_small_patch14_reg4_dinov2", SMALL),
    "clip": ("vit_base_patch16_clip_224", SMALL),
    "siglip": ("vit_base_patch16_siglip_224", {**SMALL, "num_classes": 0}),
    "post norm": ("vit_relpos_small_patch16_224", {**SMALL, "block_fn": None}),
    "gated": ("vit_tiny_patch16_224", {**SMALL, "qk_norm": True, "scale_attn_norm": True}),
    "relative": ("vit_relpos_small_patch16_224", SMALL),
    "relative mlp": ("vit_relpos_base_patch32_plus_rpn_256", SMALL),
    "beit": ("beit_base_patch16_224", SMALL),
    "beit shared": (
        "beit_base_patch16_224",
        {**SMALL, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "eva": ("eva02_tiny_patch14_224", {**SMALL, "mlp_ratio": 2}),
    "eva rope": ("vit_small_patch16_rope_224", SMALL),
    "eva mixed rope": ("vit_small_patch16_rope_mixed_224", SMALL),
    "dinov3": ("vit_small_patch16_dinov3", {**SMALL, **DYNAMIC}),
}
CHOICES = {
    "some": {0: {0: "table", 2: "convolution"}, 1: {1: "relative"}},
    "all": {0: dict.fromkeys(range(3), "table"), 1: {0: "convolution", 1: "table", 2: "relative"}},
}


def make(name: str) -> nn.Module:
    """A model whose attention is far from uniform."""
    torch.manual_seed(0)
    architecture, options = MODELS[name]
    model = timm.create_model(architecture, **{k: v for k, v in options.items() if v is not None}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double()


def images(batch: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def block_input(model: nn.Module, x: torch.Tensor, number: int) -> tuple:
    """What reaches the attention of a block."""
    seen = {}
    layer = model.blocks[number].attn
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(args=args, kwargs=kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return seen["args"], seen["kwargs"]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_is_the_original_with_other_maps(name: str, choice: str) -> None:
    """Against the unfused original whose softmax is overwritten, head by head, by the maps of the converted layer."""
    vit = make(name)
    model = to_positional(vit, images(), heads=CHOICES[choice], window=3)
    for number in (0, 1):
        args, kwargs = block_input(vit, images(2), number)
        layer, original = model.blocks[number].attn, copy.deepcopy(vit.blocks[number].attn)
        if isinstance(layer, ConvertedAttention):
            maps = {
                head: layer.attention_maps()[i] for i, head in enumerate(layer.order) if head in layer.kinds
            }
        else:
            maps = dict(enumerate(layer.attention_maps()))

        def put(_: nn.Module, inputs: tuple, maps: dict = maps) -> tuple:
            replaced = inputs[0].clone()
            for head, own in maps.items():
                replaced[:, head] = own
            return (replaced,)

        original.fused_attn = False
        original.attn_drop.register_forward_pre_hook(put)
        with torch.no_grad():
            torch.testing.assert_close(
                layer(*args, **kwargs), original(*args, **kwargs), atol=1e-6, rtol=1e-6
            )


@pytest.mark.parametrize("name", MODELS)
def test_one_image_converted_as_tables_is_as_before(name: str) -> None:
    vit = make(name)
    model = to_positional(vit, images(1), heads={0: [1], 1: [0, 1, 2]})
    with torch.no_grad():
        torch.testing.assert_close(model(images(1)), vit(images(1)), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(images(2)), vit(images(2)), atol=1e-4)


def test_q_and_k_of_converted_heads_are_gone() -> None:
    vit = make("registers")
    model = to_positional(vit, images(), heads=CHOICES["all"])
    names = {name for name, _ in model.named_parameters()}
    assert not any("qk" in name or "qkv" in name for name in names)
    part = to_positional(vit, images(), heads=CHOICES["some"])
    assert part.blocks[0].attn.content.qk.weight.shape == (2 * 8, 24)  # of one head of three
    assert part.blocks[1].attn.content.qk.weight.shape == (2 * 2 * 8, 24)


def test_a_convolution_costs_in_proportion_to_the_tokens() -> None:
    """Executed as one, frozen: four times the patches, four times the multiply-adds; sixteen times for a table."""
    costs: dict[str, list[float]] = {}
    for kind in ("convolution", "table"):
        for size in (32, 64):
            options = {**SMALL, "img_size": size, "num_classes": 0, "depth": 1}
            vit = timm.create_model("vit_base_patch16_siglip_224", **options).eval()
            x = torch.randn(1, 3, size, size)
            layer = freeze_attention(to_positional(vit, x, kind=kind, window=3)).blocks[0].attn
            tokens = torch.randn(1, (size // 4) ** 2, 24)
            linear = 2 * tokens.shape[1] * 24 * 24  # values and output projection: Q and K are gone
            costs.setdefault(kind, []).append(multiply_adds(layer, tokens) - linear)
    assert costs["table"] == [64 * 64 * 24, 256 * 256 * 24]
    small, large = costs["convolution"]
    assert large == pytest.approx(4 * small, rel=0.02)
    # 3 x 3 weights for each channel, and what is spread evenly
    assert 9 * 64 * 24 <= small <= 1.5 * 9 * 64 * 24


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_heads_convert_exactly(kind: str) -> None:
    vit = make("registers")
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight[:24] = 0
            block.attn.qkv.bias[:24] = 0
        model = to_positional(vit, images(), kind=kind)
        torch.testing.assert_close(model(images(4) + 1), vit(images(4) + 1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["registers", "eva rope", "beit", "relative", "siglip"])
def test_maps_by_offset_serve_other_image_sizes(name: str) -> None:
    model = to_positional(
        make(name), images(), heads={0: {0: "relative", 1: "convolution"}, 1: {2: "relative"}}
    )
    with torch.no_grad():
        before = model(images(2))
        model.set_input_size(img_size=(24, 32))
        x = torch.nn.functional.interpolate(images(2), (24, 32))
        assert model(x).shape == before.shape
        assert model.blocks[1].attn.attention_maps().shape[-1] == 6 * 8 + model.num_prefix_tokens
        model.set_input_size(img_size=(16, 16))
    assert model.blocks[0].attn.attention_maps().shape[-1] == 16 + model.num_prefix_tokens


def test_the_same_number_of_tokens_on_another_grid_has_other_maps() -> None:
    """4 x 4 patches and 2 x 8 are as many: offset maps follow the grid, kept maps are made anew."""
    model = to_positional(make("registers"), images(), kind="relative")
    with torch.no_grad():
        square = model.blocks[0].attn.attention_maps()
        model.set_input_size(img_size=(8, 32))
        flat = model.blocks[0].attn.attention_maps()
    assert square.shape == flat.shape
    assert not torch.allclose(square, flat)


@pytest.mark.parametrize("heads", [[0], None])
@pytest.mark.parametrize(
    "change", [copy.deepcopy, freeze_attention, lambda model: freeze_attention(model, keep=3)]
)
def test_tables_refuse_another_grid_of_as_many_patches(heads: list[int] | None, change) -> None:
    model = change(to_positional(make("registers"), images(4), blocks=[1], heads=heads))
    model.set_input_size(img_size=(8, 32))
    with pytest.raises(ValueError, match=r"tables are for a grid of \(4, 4\), the model's is \(2, 8\) now"):
        model(torch.randn(1, 3, 8, 32).double())
    model.set_input_size(img_size=16)
    assert model(images(1)).isfinite().all()


def test_freezing_keeps_the_outputs() -> None:
    model = to_positional(make("clip"), images(), heads=CHOICES["all"])
    for block in model.blocks:
        if isinstance(block.attn, ConvertedAttention):
            block.attn.thaw()
    assert any("maps.scores.table" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        frozen = freeze_attention(model)
        torch.testing.assert_close(frozen(images()), model(images()))
    assert not any("scores.table" in name for name, _ in frozen.named_parameters())


def test_bfloat16_agrees_with_float32() -> None:
    """Under autocast and as a whole; copies and modes keep what they compute."""
    vit = make("registers").float()
    model = freeze_attention(to_positional(vit, images().float(), heads=CHOICES["all"], window=3))
    x = images(8).float()
    with torch.no_grad():
        expected = model(x)
        half = copy.deepcopy(model).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model(x).float()
        plain, reference = half(x.bfloat16()).float(), vit.bfloat16()(x.bfloat16()).float()
        noise = (reference - vit.float()(x)).norm()  # of the original, all in bfloat16
        for found in (cast, plain):
            assert (found - expected).norm() < 3 * noise
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(model.train().eval()(x), expected)
        assert model.to("meta")(x.to("meta")).shape == expected.shape


@pytest.mark.parametrize("choice", CHOICES)
def test_converted_heads_are_inspected_under_their_numbers(choice: str) -> None:
    """On the one image that tables were averaged over, heads look as before; converted ones have one map for all."""
    vit = make("registers")
    tables = {number: dict.fromkeys(kinds, "table") for number, kinds in CHOICES[choice].items()}
    converted = to_positional(vit, images(1), heads=tables)
    before, after = average_maps(vit, images(1), [0, 1]), average_maps_of_layers(converted)
    for number in (0, 1):
        torch.testing.assert_close(after[number], before[number], atol=1e-5, rtol=1e-4)
    model = to_positional(vit, images(), heads=CHOICES[choice], window=3)
    table = inspect_attention(model, images(5))
    for number, kinds in CHOICES[choice].items():
        rows = table[(table.layer == number) & (table.measure == "positionality")]
        assert {
            head for head, value in zip(rows["head"], rows.value, strict=True) if value > 1 - 1e-6
        } == set(kinds)


def average_maps_of_layers(model: nn.Module) -> dict[int, torch.Tensor]:
    """The maps of converted layers on one image, as they are observed."""
    found: dict[int, torch.Tensor] = {}
    layers = {number: block.attn for number, block in enumerate(model.blocks)}
    watch_attention(model, images(1), layers, lambda number, maps, _: found.update({number: maps[0]}))
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_traced_and_compiled(choice: str) -> None:
    model = to_positional(make("clip"), images(), heads=CHOICES[choice])
    with torch.no_grad():
        expected = model(images())
        traced = timm.models.create_feature_extractor(model, {"head": "out"})
        torch.testing.assert_close(traced(images())["out"], expected)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images()), expected)


class Adapter(nn.Module):
    """What a low-rank adapter leaves in place of a linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base


def with_adapter(name: str) -> nn.Module:
    vit = make("clip")
    setattr(vit.blocks[1].attn, name, Adapter(getattr(vit.blocks[1].attn, name)))
    return vit


def parallel() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", **SMALL, block_fn=ParallelScalingBlock)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (parallel, TypeError, r"blocks.0 \(ParallelScalingBlock\) is not supported: it has no attn"),
        (
            lambda: with_adapter("qkv"),
            TypeError,
            r"blocks.1.attn.qkv \(Adapter\) is not supported: .* merge adapters",
        ),
        (lambda: with_adapter("proj"), TypeError, r"blocks.1.attn.proj \(Adapter\) is not supported"),
        (lambda: timm.create_model("resnet10t"), TypeError, "ResNet is not supported: .* no attention"),
        (
            lambda: timm.create_model("swin_tiny_patch4_window7_224"),
            TypeError,
            r"layers.0.blocks.0.attn \(WindowAttention\) of SwinTransformer is not supported: it attends within",
        ),
        (lambda: timm.create_model("cait_xxs24_224"), TypeError, r"blocks.0.attn \(TalkingHeadAttn\)"),
        (
            lambda: timm.create_model("xcit_nano_12_p16_224"),
            TypeError,
            r"blocks.0.attn \(XCA\) is not supported: it attends among channels",
        ),
        (
            lambda: timm.create_model("vit_small_patch16_dinov3", **SMALL),
            ValueError,
            "dynamic_img_size=True: tokens vary by image",
        ),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", **SMALL, patch_drop_rate=0.5),
            ValueError,
            "patch_drop_rate=0.5: tokens vary by image",
        ),
        (
            lambda: to_positional(make("clip"), images(), heads={0: [0]}),
            ValueError,
            "blocks.0.attn has converted heads already: convert the original model",
        ),
    ],
)
def test_what_is_refused(model, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_positional(model(), images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "linear"}, "unknown kind 'linear'; known: convolution, relative, table"),
        ({"heads": {0: {1: "tables"}}}, "unknown kind 'tables'"),
        ({"window": 4}, "window must be odd, got 4"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_bad_kinds(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_positional(make("clip"), images(), **options)


def test_heads_by_offset_are_not_pruned() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL)
    model = to_positional(vit, torch.randn(2, 3, 16, 16), kind="relative")
    with pytest.raises(ValueError, match="keep=2 is for tables"):
        freeze_attention(model, keep=2)


def test_dropout_that_leaves_no_weight_gives_numbers() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL, attn_drop_rate=0.5)
    model = to_positional(vit, torch.randn(2, 3, 16, 16), kind="convolution", window=1).train()
    assert all(model(torch.randn(2, 3, 16, 16)).isfinite().all() for _ in range(20))

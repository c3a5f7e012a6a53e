"""Everything a timm model does, for every name and score kind, in float32 and bfloat16."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from timm.models import _hub as hub
from timm.models._features import FeatureGetterNet
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3, freeze
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from posattn.vision.models.attention import PositionalAttention
from posattn.vision.models.checkpoint import checkpoint_filter_fn
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.scores import SCORES
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

NAMES = timm.list_models("vit_posattn_*")
KINDS = [(scores, positional) for scores in SCORES for positional in (2, 1)]  # all blocks, half of them
DTYPES = [torch.float32, torch.bfloat16]
TINY = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}
PREFIX = {"class_token": True, "reg_tokens": 2, "global_pool": "token"}


def make(name: str = "vit_posattn_tiny_patch4_32", **options: object) -> VisionTransformerPosAttn:
    torch.manual_seed(0)
    return timm.create_model(name, **{**TINY, **options}).eval()


def images(
    batch: int = 3, dtype: torch.dtype = torch.float32, size: tuple[int, int] = (8, 8)
) -> torch.Tensor:
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"scores": request.param[0], "positional_blocks": request.param[1]}


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scores", SCORES)
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


@pytest.mark.parametrize("training", [False, True])
def test_fx_is_bitwise_equal_and_live(options: dict[str, object], dtype: torch.dtype, training: bool) -> None:
    """The traced model is no snapshot: its maps follow the parameters, which all learn through it."""
    model = make(**options, **PREFIX, dtype=dtype).train(training)
    traced = timm.models.create_feature_extractor(model, {"head": "out"})
    x = images(dtype=dtype)
    assert torch.equal(traced(x)["out"], model(x))
    with torch.no_grad():
        for parameter in model.blocks[0].attn.maps.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(traced(x)["out"], model(x))
    assert {id(p) for p in traced.parameters()} == {id(p) for p in model.parameters()}
    traced(x)["out"].float().square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_fx_features(options: dict[str, object]) -> None:
    features = make(**options, features_only=True, feature_cls="fx", out_indices=(0, 1))
    _, maps = make(**options).forward_intermediates(images(), output_fmt="NLC")
    for mine, theirs in zip(features(images()), maps, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript(options: dict[str, object], dtype: torch.dtype) -> None:
    model = make(**options, **PREFIX, dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(dtype=dtype)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(model)(x), model(x))
        assert torch.equal(torch.jit.trace(model, x)(x), model(x))
    assert before.keys() == model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("qk_norm", [False, True])
def test_fx_features_are_scripted_as_timms_tests_do(options: dict[str, object], qk_norm: bool) -> None:
    """timm traces in training and evaluation mode, with its leaves, and scripts the graph; nothing is frozen."""
    model = make(**options, **PREFIX, qk_norm=qk_norm, scriptable=True)
    how = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    (*_, train), (*_, evaluation) = get_graph_node_names(model, tracer_kwargs=how)
    nodes = {"train_return_nodes": [train], "eval_return_nodes": [evaluation]}
    traced = create_feature_extractor(model, **nodes, tracer_kwargs=how).eval()
    scripted = torch.jit.script(traced)
    x = images()
    with torch.no_grad():
        assert torch.equal(*scripted(x).values(), model(x))
        for parameter in model.positional_layers()[0].maps.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(*scripted(x).values(), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", ["tiny_patch16_224", "hybrid_tiny_patch16_224", "small_patch4_32"])
def test_fx_features_of_named_models_are_scripted(name: str) -> None:
    model = timm.create_model(
        f"vit_posattn_{name}", depth=2, features_only=True, feature_cls="fx", out_indices=(1,)
    )
    model.eval()
    size = int(name.split("_")[-1])
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(*torch.jit.script(model)(x), *model(x))


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


def test_compile_fullgraph(options: dict[str, object], dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    model = make(**options, dtype=dtype)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = images(dtype=dtype)
    compiled(x).float().square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).float().square().sum().backward()
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    for grad, parameter in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), **tolerance)
        for parameter in model.positional_layers()[0].maps.parameters():
            parameter.mul_(-1.5)
        torch.testing.assert_close(compiled(x), model(x), **tolerance)  # nothing stale in the graph either


def test_compile_by_inductor() -> None:
    torch._dynamo.reset()
    model = make()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images()), model(images()))


def test_export_with_a_dynamic_batch(options: dict[str, object], dtype: torch.dtype) -> None:
    model = make(**options, dtype=dtype)
    with torch.no_grad():
        program = torch.export.export(
            model, (images(3, dtype),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}}
        )
        assert set(program.state_dict) == set(model.state_dict())
        for batch in (1, 5):
            x = images(batch, dtype)
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("prefix", [{}, PREFIX], ids=["patches", "prefix"])
def test_set_input_size(options: dict[str, object], prefix: dict[str, object], dtype: torch.dtype) -> None:
    """To a larger non-square grid and back: maps are rebuilt, rows still sum to 1, prefix scores stay."""
    model = make(**options, **prefix, dtype=dtype)
    with torch.no_grad():
        before = model.attention_maps()
        model(images(dtype=dtype))  # what is kept must not survive
        model.set_input_size(img_size=(12, 16))
        assert model(images(dtype=dtype, size=(12, 16))).isfinite().all()
        maps = model.attention_maps()
        tokens = 48 + model.num_prefix_tokens
        assert maps.shape[-2:] == (tokens, tokens)
        torch.testing.assert_close(maps.float().sum(-1), torch.ones(maps.shape[:-1]), atol=0.02, rtol=0)
        model.set_input_size(img_size=(8, 8))
        assert model.attention_maps().shape == before.shape
    model.train()(images(dtype=dtype)).float().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_resampling_keeps_scores_that_are_smooth(generator: torch.Generator) -> None:
    """A relative table linear in the offset is linear in it again at twice the grid, with half the slope."""
    model = make(scores="relative")
    scores = model.blocks[0].attn.maps.scores
    line = torch.arange(-3.0, 4.0)
    scores.table.data.copy_(line[:, None] * 2 + line)
    model.set_input_size(img_size=(14, 14))  # offsets -6..6
    fine = torch.linspace(-3, 3, 13)
    inside = slice(3, -3)  # beyond, bicubic interpolation sees the border
    torch.testing.assert_close(
        scores.table[0, inside, inside], (fine[:, None] * 2 + fine)[inside, inside], atol=1e-5, rtol=0
    )


def test_relative_scores_depend_on_the_offset_alone() -> None:
    scores = make(scores="relative", img_size=(6, 10)).blocks[0].attn.maps.scores
    got = scores(None).unflatten(2, (3, 5)).unflatten(1, (3, 5))
    for (i, j), (k, m) in [((0, 0), (0, 0)), ((0, 0), (2, 4)), ((2, 4), (0, 0)), ((1, 2), (2, 0))]:
        assert torch.equal(got[:, i, j, k, m], scores.table[:, k - i + 2, m - j + 4])


@pytest.mark.parametrize("prefix", [{}, PREFIX], ids=["patches", "prefix"])
def test_checkpoint_of_another_grid(options: dict[str, object], prefix: dict[str, object]) -> None:
    """Refused as it is, and resampled on request exactly as set_input_size resamples."""
    small = make(**options, **prefix)
    large = make(**options, **prefix, img_size=(12, 16))
    with pytest.raises(ValueError, match=r"checkpoint of another grid: .*resample"):
        large.load_state_dict(small.state_dict())
    large.load_state_dict(checkpoint_filter_fn({"state_dict": small.state_dict()}, large))
    small.set_input_size(img_size=(12, 16))
    with torch.no_grad():
        assert torch.equal(large(images(size=(12, 16))), small(images(size=(12, 16))))
    again = make(**options, **prefix, img_size=(12, 16))
    again.load_state_dict(checkpoint_filter_fn(small.state_dict(), again))
    assert torch.equal(again(images(size=(12, 16))), small(images(size=(12, 16))))


def test_a_checkpoint_whose_grid_cannot_be_told_is_refused() -> None:
    source, model = make(img_size=(12, 16)), make()
    with pytest.raises(ValueError, match="cannot tell the grid of a checkpoint of 48 patches"):
        checkpoint_filter_fn(source.state_dict(), model)


@pytest.mark.parametrize(
    "stock_options", [{}, {"qk_norm": True}, {"class_token": False, "global_pool": "avg"}]
)
@pytest.mark.parametrize("size", [(8, 8), (12, 16)])
def test_stock_vit_checkpoint(options: dict[str, object], stock_options: dict, size: tuple[int, int]) -> None:
    """V, W_O, MLP, norms, embeddings and head are the ViT's; the scores stay the model's own."""
    stock = make("vit_tiny_patch16_224", **stock_options)
    for p in stock.parameters():
        torch.nn.init.normal_(p)
    model = make(**options, img_size=size, qk_norm=bool(stock_options.get("qk_norm")))
    maps = model.attention_maps()
    model.load_state_dict(checkpoint_filter_fn(stock.state_dict(), model))
    assert torch.equal(model.attention_maps(), maps)
    assert torch.equal(model.blocks[0].attn.v.weight, stock.blocks[0].attn.qkv.weight[32:])
    assert torch.equal(model.blocks[0].attn.v.bias, stock.blocks[0].attn.qkv.bias[32:])
    norm = stock.norm if stock.has_class_token else stock.fc_norm
    assert torch.equal(model.fc_norm.weight, norm.weight)
    assert torch.equal(model.head.weight, stock.head.weight)
    if size == (8, 8):
        assert torch.equal(model.pos_embed, stock.pos_embed[:, stock.num_prefix_tokens :])
    for block, other in list(zip(model.blocks, stock.blocks, strict=True))[len(maps) :]:
        for p, q in zip(block.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)


def test_stock_vit_with_prefix_tokens() -> None:
    stock = make("vit_tiny_patch16_224", reg_tokens=2)
    model = make(**PREFIX)
    model.load_state_dict(checkpoint_filter_fn(stock.state_dict(), model))
    assert torch.equal(model.pos_embed, stock.pos_embed)
    assert torch.equal(model.norm.weight, stock.norm.weight)
    only_class = make(class_token=True)
    only_class.load_state_dict(checkpoint_filter_fn(stock.state_dict(), only_class))
    assert torch.equal(only_class.pos_embed, stock.pos_embed[:, [0, *range(3, 19)]])


@pytest.mark.parametrize("frozen", [False, True])
def test_saved_for_the_hub_and_built_again(options: dict[str, object], frozen: bool, tmp_path) -> None:
    model = make(**options, **PREFIX)
    model.set_input_size(img_size=(8, 12))
    model = freeze_attention(model) if frozen else model
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert (tmp_path / "model.safetensors").exists()
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert isinstance(again, VisionTransformerPosAttn)
    with torch.no_grad():
        assert torch.equal(again(images(size=(8, 12))), model(images(size=(8, 12))))


def test_pushed_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of ``push_to_hf_hub`` but the network."""
    pushed: dict[str, int] = {}

    class Api:
        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, folder_path: str, **_: object) -> None:
            pushed.update({path.name: path.stat().st_size for path in Path(folder_path).iterdir()})

        def file_exists(self, **_: object) -> bool:
            return False

    monkeypatch.setattr(hub, "HfApi", lambda *args, **kwargs: Api())
    hub.push_to_hf_hub(make(), "me/model", safe_serialization=True, model_card={"details": {}})
    assert pushed["model.safetensors"] > 0
    assert pushed["config.json"] > 0


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

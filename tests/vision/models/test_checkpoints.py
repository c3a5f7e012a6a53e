"""Other image sizes, checkpoints of other grids and of timm's ViTs, and the hub."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from small_vits import PREFIX, images, make
from timm.models import _hub as hub

from posattn.vision.models.checkpoint import checkpoint_filter_fn
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.scores import Grid, resample_keys
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn


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


@pytest.mark.parametrize("other", [{"embed_dim": 32}, {"num_heads": 4}, {"embed_dim": 32, "num_heads": 4}])
@pytest.mark.parametrize("size", [(8, 8), (4, 14)])
def test_another_width_or_number_of_heads_is_no_other_grid(
    options: dict[str, object], size: tuple[int, int], other: dict[str, object]
) -> None:
    """Torch names the weights, before and after the filter; encodings have no weight whose shape heads determine."""
    state, model = make(**options, img_size=size).state_dict(), make(**options, **other, img_size=size)
    for held in (state, checkpoint_filter_fn(state, model)):
        if options["scores"] == "encodings" and "embed_dim" not in other:
            model.load_state_dict(held)
        else:
            with pytest.raises(RuntimeError, match="size mismatch for"):
                model.load_state_dict(held)


def test_other_prefix_tokens_are_no_other_grid(options: dict[str, object]) -> None:
    source, model = make(**options, class_token=True), make(**options)
    with pytest.raises(
        ValueError, match=r"of other prefix tokens: .*\(1, 17, 16\).*adapt it with checkpoint_filter"
    ):
        model.load_state_dict(
            {k: v for k, v in source.state_dict().items() if "maps" not in k and "enc" not in k}
        )


@pytest.mark.parametrize(("keeps", "said"), [((2, 1), r"keep=2$"), ((None, 1), r"keep=16$")])
def test_other_numbers_of_entries_are_no_other_grid(keeps: tuple[int | None, int], said: str) -> None:
    source, model = (freeze_attention(make(), keep) for keep in keeps)
    with pytest.raises(ValueError, match=f"of other numbers of entries: .*{said}"):
        model.load_state_dict(source.state_dict())


def test_a_checkpoint_whose_grid_cannot_be_told_is_refused() -> None:
    source, model = make(img_size=(12, 16)), make()
    with pytest.raises(ValueError, match="cannot tell the grid of a checkpoint of 48 patches"):
        checkpoint_filter_fn(source.state_dict(), model)


@pytest.mark.parametrize("size", [(2, 14), (4, 4), (8, 8), (10, 10), (12, 16)])  # 1x7 to 6x8 patches
@pytest.mark.parametrize("extra", [{}, PREFIX, {"no_embed_class": True, **PREFIX}])
@pytest.mark.parametrize(("scores", "other"), [("relative", "table"), ("table", "relative")])
def test_scores_of_the_other_kind_are_refused(
    scores: str, other: str, size: tuple[int, int], extra: dict[str, object]
) -> None:
    """Both name their parameter alike, and 5x5 patches of one and 3x3 of the other give it the same shape."""
    state = make(scores=scores, **extra, img_size=size).state_dict()
    make(scores=scores, **extra, img_size=size).load_state_dict(state)
    for img_size in (size, (6, 6)):
        model = make(scores=other, **extra, img_size=img_size)
        for load in (model.load_state_dict, lambda held, to=model: checkpoint_filter_fn(held, to)):
            with pytest.raises(ValueError, match=f"other scores: .* scores='{scores}', .* scores='{other}'"):
                load(state)


def test_scores_of_the_other_kind_without_position_embeddings() -> None:
    for scores, other in (("relative", "table"), ("table", "relative")):
        source = make(scores=scores, pos_embed="none", img_size=(4, 12))
        with pytest.raises(ValueError, match=f"other scores: .* scores='{scores}'"):
            checkpoint_filter_fn(source.state_dict(), make(scores=other, pos_embed="none"))


@pytest.mark.parametrize("size", [(4, 8), (6, 10), (8, 10)])
@pytest.mark.parametrize("embedded", [True, False])
def test_position_embeddings_with_and_without_a_class_token(size: tuple[int, int], embedded: bool) -> None:
    """2x4 and 3x5 patches and a class token are as many as a square grid has; 4x5 are not."""
    stock = make("vit_tiny_patch16_224", img_size=size, no_embed_class=not embedded)
    torch.nn.init.normal_(stock.pos_embed)
    model = make(img_size=size)
    model.load_state_dict(checkpoint_filter_fn(stock.state_dict(), model))
    assert torch.equal(model.pos_embed, stock.pos_embed[:, int(embedded) :])


def test_ambiguous_position_embeddings_are_refused() -> None:
    stock = make("vit_tiny_patch16_224", img_size=(6, 10))
    with pytest.raises(
        ValueError, match=r"cannot tell whether the 16 rows .* hold the checkpoint's 1 prefix"
    ):
        checkpoint_filter_fn(stock.state_dict(), make(img_size=(8, 10)))


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


@pytest.mark.parametrize("prefix", [{}, PREFIX], ids=["patches", "prefix"])
def test_a_checkpoint_of_another_grid_of_as_many_patches(
    options: dict[str, object], prefix: dict[str, object], tmp_path: Path
) -> None:
    """2 x 8 patches are not 4 x 4: resampled as set_input_size does it, and frozen maps are refused."""
    model = make(**options, **prefix, img_size=(4, 16))
    torch.nn.init.normal_(model.pos_embed)
    timm.models.save_for_hf(model, tmp_path / "trained")
    timm.models.save_for_hf(freeze_attention(model), tmp_path / "frozen")
    model.set_input_size(img_size=(8, 8))
    again = timm.create_model(f"local-dir:{tmp_path / 'trained'}", pretrained=True, img_size=8).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(
        ValueError, match=r"of another grid: .* for \(2, 8\) .* the model has \(4, 4\); build"
    ):
        timm.create_model(f"local-dir:{tmp_path / 'frozen'}", pretrained=True, img_size=8)


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


@pytest.mark.parametrize("size", [(4, 32), (32, 4)])
def test_offsets_on_a_single_row_keep_their_centre(size: tuple[int, int]) -> None:
    options = {"patch_size": 4, "img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3}
    model = timm.create_model(
        "vit_posattn_tiny_patch16_224", scores="relative", score_diagonal=4.0, **options
    )
    scores = model.blocks[0].attn.maps.scores
    centre = scores.table[:, 7, 7].clone()
    across = (scores.table[:, 7] if size[0] == 4 else scores.table[:, :, 7]).clone()
    model.set_input_size(size)
    assert torch.equal(scores.table.flatten(1), across)
    assert torch.equal(scores.table.flatten(1)[:, 7], centre)


@pytest.mark.parametrize("new", [(1, 9), (1, 6), (3, 4)])
def test_tables_on_their_side_are_resampled_alike(new: tuple[int, int]) -> None:
    """Also onto a single column, where torch's antialias is wrong."""
    rows = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    turned = rows.unflatten(2, (2, 6)).mT.flatten(2)
    upright = resample_keys(rows, Grid(2, 6), Grid(*new)).unflatten(2, new)
    on_its_side = resample_keys(turned, Grid(6, 2), Grid(*new[::-1])).unflatten(2, new[::-1])
    torch.testing.assert_close(on_its_side.mT, upright)

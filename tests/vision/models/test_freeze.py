"""Frozen maps: the same outputs with fewer parameters, wherever the model is taken from there."""

import copy

import onnxruntime
import pytest
import timm
import torch
from small_vits import PREFIX, TINY, images, make
from timm.utils import reparameterize_model

import posattn.vision.models.freeze
from posattn.vision.convert.maps import to_positional
from posattn.vision.models.freeze import freeze_attention, largest
from posattn.vision.models.scores import SCORES


@pytest.mark.parametrize("freeze", [freeze_attention, reparameterize_model])
@pytest.mark.parametrize("options", [{}, PREFIX, {"positional_blocks": 1}], ids=["all", "prefix", "half"])
@pytest.mark.parametrize("scores", SCORES)
def test_same_outputs_fewer_parameters(scores: str, options: dict, freeze) -> None:
    model = make(scores=scores, **options)
    frozen = freeze(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen(images()), model(images()), atol=1e-6, rtol=0)
    count, before = (sum(p.numel() for p in m.parameters()) for m in (frozen, model))
    dropped = sum(p.numel() for n, p in model.named_parameters() if ".maps." in n or "pos_encodings" in n)
    assert count == before - dropped < before
    assert not any("scores" in name or "pos_encodings" in name for name in frozen.state_dict())
    frozen.train()(images()).sum().backward()
    assert all(p.grad is not None for p in frozen.parameters())


def test_the_original_is_left_alone() -> None:
    model = make()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    freeze_attention(model)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_frozen_in_bfloat16_and_back_through_a_state_dict() -> None:
    frozen = freeze_attention(make())
    half = copy.deepcopy(frozen).bfloat16()
    assert all(t.dtype == torch.bfloat16 for t in half.state_dict().values())
    torch.testing.assert_close(half(images().bfloat16()).float(), frozen(images()), atol=0.05, rtol=0.05)
    other = freeze_attention(make(scores="table"))
    other.load_state_dict(frozen.state_dict())
    assert torch.equal(other(images()), frozen(images()))
    rebuilt = make(scores="frozen")
    rebuilt.load_state_dict(frozen.state_dict())
    assert torch.equal(rebuilt(images()), frozen(images()))


def test_frozen_maps_refuse_another_grid() -> None:
    frozen = freeze_attention(make())
    with pytest.raises(ValueError, match=r"frozen maps of grid \(4, 4\) cannot serve grid \(4, 6\)"):
        frozen.set_input_size(img_size=(8, 12))
    assert frozen(images()).isfinite().all()  # and nothing was changed
    frozen.set_input_size(img_size=(8, 8))
    with pytest.raises(ValueError, match="checkpoint of another grid"):
        make(scores="frozen", no_embed_class=True, patch_size=1).load_state_dict(frozen.state_dict())


def test_nothing_to_freeze() -> None:
    with pytest.raises(ValueError, match="VisionTransformer has no positional attention to freeze"):
        freeze_attention(timm.create_model("vit_tiny_patch16_224", **TINY))


def test_maps_that_are_not_finite() -> None:
    model = make(scores="table")
    with torch.no_grad():
        model.blocks[1].attn.maps.scores.table[1, 3, 5] = torch.inf
    with pytest.raises(ValueError, match=r"heads \[1\] are not finite"):
        freeze_attention(model)


def stock_converted() -> torch.nn.Module:
    vit = timm.create_model("vit_tiny_patch16_224", **TINY).eval()
    return to_positional(vit, images(), heads={0: [1], 1: [0, 1]})


def gathered(model: torch.nn.Module) -> torch.nn.Module:
    """Pruned, in the form that gathers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posattn.vision.models.freeze, "GATHERED", {torch.float32: 1.0})
        return freeze_attention(model, keep=3)


MODELS = {
    "half with prefix": lambda: freeze_attention(make(scores="relative", positional_blocks=1, **PREFIX)),
    "converted": stock_converted,
    "many tokens": lambda: freeze_attention(make(patch_size=1, img_size=23)),
}


@pytest.mark.parametrize("form", [lambda model: model, gathered], ids=["whole", "gathered"])
@pytest.mark.parametrize("name", MODELS)
def test_onnx_with_a_dynamic_batch(name: str, form, tmp_path) -> None:
    torch.manual_seed(0)
    model, path = form(MODELS[name]()).eval(), tmp_path / "model.onnx"
    size = 23 if name == "many tokens" else 8
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        model,
        (images(3, size=(size, size)),),
        path,
        input_names=["x"],
        dynamic_shapes={"x": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (found,) = session.run(None, {"x": images(count, size=(size, size)).numpy()})
        with torch.no_grad():
            torch.testing.assert_close(
                torch.from_numpy(found), model(images(count, size=(size, size))), atol=1e-5, rtol=1e-4
            )


def test_largest_by_brute_force(generator: torch.Generator) -> None:
    maps = torch.rand(3, 7, 7, generator=generator, dtype=torch.float64).softmax(-1)
    for k in (1, 3, 7):
        expected = torch.zeros_like(maps)
        for h, i in torch.cartesian_prod(torch.arange(3), torch.arange(7)).tolist():
            kept = sorted(range(7), key=maps[h, i].__getitem__, reverse=True)[:k]
            expected[h, i, kept] = maps[h, i, kept] / maps[h, i, kept].sum()
        weights, columns = largest(maps, k)
        torch.testing.assert_close(torch.zeros_like(maps).scatter(2, columns, weights), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("build", [make, stock_converted])
def test_gathered_maps_are_the_dense_ones(build) -> None:
    """Both forms of the same pruned model agree, in outputs, gradients and maps, traced and scripted."""
    model = build()
    dense, sparse = freeze_attention(model, keep=3), gathered(model)
    pruned = [m.indices for m in sparse.modules() if getattr(m, "indices", None) is not None]
    assert all(indices.shape[-1] == 3 for indices in pruned)
    assert len(pruned) == len(sparse.blocks)
    for m in (dense, sparse):
        m(images()).square().sum().backward()
    for p, q in zip(dense.parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    with torch.no_grad():
        expected = dense(images())
        torch.testing.assert_close(sparse(images()), expected)
        torch.testing.assert_close(freeze_attention(sparse)(images()), expected)
        torch.testing.assert_close(freeze_attention(sparse, keep=3)(images()), expected)
        torch.testing.assert_close(torch.jit.script(copy.deepcopy(sparse))(images()), expected)
        traced = timm.models.create_feature_extractor(sparse, {"head": "out"})
        torch.testing.assert_close(traced(images())["out"], expected)
        compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images()), expected)
        other = gathered(model)
        other.load_state_dict(sparse.state_dict())
        torch.testing.assert_close(other(images()), expected)
        maps = [m.blocks[1].attn.attention_maps() for m in (dense, sparse)]
        torch.testing.assert_close(*maps)


def test_gathered_models_are_built_again_by_name(tmp_path) -> None:
    """With whole maps, which freezing gathers again."""
    saved = gathered(make())
    timm.models.save_for_hf(saved, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.blocks[0].attn.indices is None
    with torch.no_grad():
        torch.testing.assert_close(again(images()), saved(images()))
        torch.testing.assert_close(gathered(again)(images()), saved(images()))
    maps = [model.blocks[1].attn.attention_maps() for model in (gathered(again), saved)]
    torch.testing.assert_close(*maps)


@pytest.mark.parametrize(
    ("k", "message"), [(0, "keep must be at least 1"), (17, "keep must be at most N=16, got 17")]
)
def test_keep_out_of_range(k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        freeze_attention(make(), keep=k)


def test_pruned_models() -> None:
    """k = N changes nothing; concentrated maps lose nothing; error falls as k grows."""
    model = make(score_std=1.0)
    with torch.no_grad():
        full = model(images())
        errors = [(freeze_attention(model, keep=k)(images()) - full).norm().item() for k in (1, 4, 12, 16)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-5
        pruned = freeze_attention(model, keep=4).attention_maps()
        assert ((pruned > 0).sum(-1) == 4).all()
        torch.testing.assert_close(pruned.sum(-1), torch.ones(2, 2, 16))


def test_small_entries_in_float16_stay() -> None:
    """They are ordinary entries of a row: without them its sum was 0.96."""
    options = {"depth": 1, "scores": "table", "score_std": 0.02, "score_diagonal": 10.0}
    model = make(img_size=32, patch_size=1, **options).half()
    live = model.attention_maps()
    assert (live < torch.finfo(torch.half).tiny).any()
    assert torch.equal(freeze_attention(model).attention_maps(), live)

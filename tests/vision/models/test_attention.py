"""The cache of attention maps is never stale, and score kinds start where they say."""

import copy
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn

from posattn.vision.grid import Grid
from posattn.vision.models.attention import AttentionMaps, FrozenMaps, PositionalAttention
from posattn.vision.models.mixing import mix_tokens
from posattn.vision.models.scores import SCORES, EncodingScores, PositionEncodings, Start
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

TINY = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}


def make(scores: str = "encodings", **options: object) -> VisionTransformerPosAttn:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_posattn_tiny_patch4_32", scores=scores, num_classes=5, **{**TINY, **options}
    ).eval()


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def fresh_output(model: nn.Module) -> torch.Tensor:
    """What the model gives with nothing kept."""
    with torch.no_grad():
        return copy.deepcopy(model).train().eval()(images())


def step_in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)


def optimizer_step(name: str, **options: object) -> Callable[[nn.Module], None]:
    def step(model: nn.Module) -> None:
        optimizer = create_optimizer_v2(model, opt=name, lr=0.05, **options)
        model(images()).square().mean().backward()
        with torch.no_grad():
            model(images())  # keeps maps again between the gradient and the step
        optimizer.step()

    return step


def foreach_step(model: nn.Module) -> None:
    torch._foreach_mul_([p.detach() for p in model.parameters()], 0.7)


def swapped(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach() * 0.7))


def pointed_elsewhere(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.7


def in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.mul_(0.7)


def ema_update(kind: Callable[..., nn.Module], **options: object) -> Callable[[nn.Module], None]:
    def update(model: nn.Module) -> None:
        other = copy.deepcopy(model)
        step_in_place(other)
        average = kind(other, decay=0.5, **options)
        (average.ema if kind is ModelEma else average.module).load_state_dict(model.state_dict())
        kept = average.ema if kind is ModelEma else average.module
        with torch.no_grad():
            before = kept(images())
            average.update(other)
            assert not torch.equal(kept(images()), before)
        torch.testing.assert_close(kept(images()), fresh_output(kept))
        step_in_place(model)

    return update


CHANGES = {
    "in place": step_in_place,
    "foreach": foreach_step,
    "sgd": optimizer_step("sgd"),
    "adamw": optimizer_step("adamw"),
    "adamw foreach": optimizer_step("adamw", foreach=True),
    "adamp": optimizer_step("adamp"),
    "lamb": optimizer_step("lamb"),
    "lookahead": optimizer_step("lookahead_adamw"),
    "load": lambda model: model.load_state_dict({k: v * 0.7 for k, v in model.state_dict().items()}),
    "assign": lambda m: m.load_state_dict({k: v * 0.7 for k, v in m.state_dict().items()}, assign=True),
    "new parameters": swapped,
    "data": pointed_elsewhere,
    "inference mode": in_inference_mode,
    "init": lambda model: model.init_weights(),
    "ema": ema_update(ModelEma),
    "ema v2": ema_update(ModelEmaV2),
    "ema v3": ema_update(ModelEmaV3, foreach=False),
    "ema v3 foreach": ema_update(ModelEmaV3, foreach=True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("scores", SCORES)
def test_kept_maps_are_never_stale(scores: str, change: str) -> None:
    model = make(scores)
    with torch.no_grad():
        before = model(images())
    CHANGES[change](model)
    with torch.no_grad():
        after = model(images())
    assert torch.equal(after, fresh_output(model))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("scores", SCORES)
def test_maps_are_computed_once_in_evaluation(scores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = make(scores), []
    compute = AttentionMaps.compute
    monkeypatch.setattr(AttentionMaps, "compute", lambda s, p: calls.append(s) or compute(s, p))
    with torch.inference_mode():
        for _ in range(3):
            model(images())
    assert len(calls) == 2  # one a layer
    with torch.no_grad():
        model(images())
        assert len(calls) == 2
        with torch.autocast("cpu", torch.bfloat16):
            model(images())
        assert len(calls) == 4  # in another type
    model(images())
    assert len(calls) == 6  # with gradients there is nothing to keep
    with torch.no_grad():
        model.train()(images())
        model.eval()(images())
    assert len(calls) == 10


def test_moves_and_copies_keep_no_maps() -> None:
    model = make()
    with torch.no_grad():
        model(images())
    kept = [attn.maps for attn in model.positional_layers()]
    assert all(maps._kept is not None for maps in kept)
    assert all(attn.maps._kept is None for attn in copy.deepcopy(model).positional_layers())
    assert all(attn.maps._kept is None for attn in pickle.loads(pickle.dumps(model)).positional_layers())
    model.double()
    assert all(maps._kept is None for maps in kept)
    with torch.no_grad():
        assert model(images().double()).dtype == torch.float64


def test_a_copy_reads_its_own_encodings() -> None:
    """The shared P is one parameter, also in copies: each layer of the copy reads the copy's."""
    model = make()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.pos_encodings.weight.mul_(0.0)
        torch.testing.assert_close(twin.attention_maps(), torch.full((2, 2, 16, 16), 1 / 16))
        assert model.attention_maps().amax() > 0.1
    assert [
        n for n, _ in model.named_parameters(remove_duplicate=False) if n.endswith("encodings.weight")
    ] == ["pos_encodings.weight"]
    assert sum("encodings" in name for name in model.state_dict()) == 1


def test_a_model_made_in_inference_mode_runs() -> None:
    with torch.inference_mode():
        model = make()
        first = model(images())
        for parameter in model.parameters():
            parameter.mul_(0.7)
        assert not torch.equal(model(images()), first)


def test_functional_call_sees_its_own_parameters() -> None:
    model = make()
    other = {name: p.detach() * 0.7 for name, p in model.named_parameters()}
    with torch.no_grad():
        before = model(images())
        called = torch.func.functional_call(model, other, (images(),))
        assert torch.equal(model(images()), before)
        model.load_state_dict(other)
        assert torch.equal(model(images()), called)


def test_training_under_autocast() -> None:
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images()).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("std", [0.02, 1.0])
def test_scores_start_at_their_scale(scores: str, prefix: int, std: float) -> None:
    torch.manual_seed(0)
    grid = Grid(7, 9, prefix)
    found = SCORES[scores](grid, 128, 2, Start(std))(PositionEncodings(grid, 128).weight)
    assert found.shape == (2, grid.num_tokens, grid.num_tokens)
    assert found.std().item() == pytest.approx(std, rel=0.15)
    assert abs(found.mean().item()) < 0.1 * std


@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("scores", SCORES)
def test_an_identity_start_prefers_the_own_token(scores: str, prefix: int) -> None:
    torch.manual_seed(0)
    grid = Grid(7, 9, prefix)
    found = SCORES[scores](grid, 128, 2, Start(0.02, 2.0))(PositionEncodings(grid, 128).weight)
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert diagonal.mean().item() == pytest.approx(2.0, rel=0.1)
    assert (found - torch.diag_embed(diagonal)).abs().mean() < 0.25
    assert (found.argmax(-1) == torch.arange(grid.num_tokens)).float().mean() > 0.95


def test_encoding_scores_are_the_equation() -> None:
    torch.manual_seed(0)
    grid = Grid(3, 4)
    scores = EncodingScores(grid, 8, 2, Start(), dtype=torch.float64)
    P = torch.randn(12, 8, dtype=torch.float64)
    for h in range(2):
        head = slice(4 * h, 4 * h + 4)
        expected = (P @ scores.query.T[:, head]) @ (P @ scores.key.T[:, head]).T / 2
        torch.testing.assert_close(scores(P)[h], expected)


def test_a_layer_without_maps_says_so() -> None:
    """As timm builds it in a ViT of its own, which attaches none."""
    vit = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=4, num_heads=2, depth=1, attn_layer=PositionalAttention
    )
    with pytest.raises(ValueError, match="positional attention has no maps: attach them"):
        vit(torch.zeros(1, 3, 8, 8))


def test_frozen_maps_must_be_finite() -> None:
    maps = torch.full((3, 4, 4), 0.25)
    maps[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"attention maps of heads \[1\] are not finite"):
        FrozenMaps(maps)


def test_subnormal_entries_are_flushed() -> None:
    maps = torch.tensor([[[1.0, 1e-40, 0.0], [2e-38, 1.0, -1e-40], [0.5, 0.5, 1e-20]]])
    expected = torch.tensor([[[1.0, 0.0, 0.0], [2e-38, 1.0, 0.0], [0.5, 0.5, 1e-20]]])
    assert torch.equal(FrozenMaps(maps).maps, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("tokens", [5, 520])  # batched over the heads, and head after head
@pytest.mark.parametrize("how", ["eager", "scripted", "compiled"])
def test_mixing_by_its_definition(tokens: int, how: str, generator: torch.Generator) -> None:
    """Outputs and gradients, against a sum in float64."""
    maps = torch.randn(3, tokens, tokens, generator=generator).softmax(-1).requires_grad_()
    values = torch.randn(2, tokens, 12, generator=generator).requires_grad_()
    weights = torch.randn(2, tokens, 12, generator=generator)
    by_head = values.double().view(2, tokens, 3, 4)
    expected = torch.einsum("hij,bjhd->bihd", maps.double(), by_head).flatten(2)
    mix = {
        "eager": mix_tokens,
        "scripted": torch.jit.script(mix_tokens),
        "compiled": torch.compile(mix_tokens, backend="aot_eager", fullgraph=True),
    }[how]
    found = mix(maps, values)
    torch.testing.assert_close(found, expected.float())
    inputs = (maps, values)
    for grad, reference in zip(
        torch.autograd.grad(found, inputs, weights),
        torch.autograd.grad(expected, inputs, weights.double()),
        strict=True,
    ):
        torch.testing.assert_close(grad, reference)

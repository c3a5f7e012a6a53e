"""Linear layers that are fitted again, against least squares written out and against corrections that are known."""

import copy

import pytest
import timm
import torch
from torch import nn

from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.quality import outputs
from posattn.vision.convert.refit import Equations, check_refit, equations, half_of, refit, ridged, solved

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
NAMES = ("vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224", "beit_base_patch16_224")


def make(name: str = NAMES[0]) -> nn.Module:
    torch.manual_seed(0)
    vit = timm.create_model(name, **SMALL).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vit


def batches(count: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(count, 3, 16, 16, generator=generator).split(16))


def distance(model: nn.Module, vit: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        found, target = (outputs(m, images).features for m in (model, vit))
    return (1 - nn.functional.cosine_similarity(found, target)).mean().item()


def random_equations(seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, Equations]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6, 5, 4, generator=generator)
    lack = inputs @ torch.arange(12.0).view(4, 3) + 2 + noise * torch.randn(6, 5, 3, generator=generator)
    return inputs, lack, equations(inputs, lack, bias=True)


def test_a_ridge_against_least_squares_with_more_rows() -> None:
    inputs, lack, sums = random_equations(0, 1.0)
    rows = torch.cat([inputs.flatten(0, 1), torch.ones(30, 1)], 1).double()
    penalty = 0.3 * rows.square().sum(0).mean()
    more = torch.cat([rows, penalty.sqrt() * torch.eye(5).double()])
    wanted = torch.cat([lack.flatten(0, 1).double(), torch.zeros(5, 3).double()])
    torch.testing.assert_close(
        ridged(sums, 0.3), torch.linalg.lstsq(more, wanted).solution, atol=1e-5, rtol=1e-5
    )


def test_the_ridge_is_chosen_on_held_out_pictures() -> None:
    (_, _, fitted), (_, _, held) = random_equations(0, 0.0), random_equations(1, 0.0)
    torch.testing.assert_close(solved(fitted, held), ridged(fitted.plus(held), 0.01))
    wrong = held._replace(moment=-held.moment)  # what helps on one part harms on the other
    assert not solved(fitted, wrong).any()


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_were_changed_are_restored(name: str) -> None:
    """A change of every layer that adds to the tokens is found and undone, whatever scales their outputs."""
    vit, changed = make(name), make(name)
    with torch.no_grad():
        for block in changed.blocks:
            last = [module for module in block.mlp.modules() if isinstance(module, nn.Linear)][-1]
            for layer in (block.attn.proj, last):
                layer.weight.add_(0.1 * torch.randn_like(layer.weight))
    fresh = torch.randn(30, 3, 16, 16)
    before = distance(changed, vit, fresh)
    refit(changed, vit, batches())
    assert distance(changed, vit, fresh) < 0.05 * before


def test_the_scale_of_the_layers() -> None:
    vit = make()
    tokens = torch.randn(4, vit.patch_embed.num_patches + 5, 24)
    block = vit.blocks[1]
    for place, layer, scale in ((1, block.attn.proj, block.ls1.gamma), (2, block.mlp.fc2, block.ls2.gamma)):
        with torch.no_grad():
            half = half_of(vit, 1, place, batches()[0][:4], tokens)
        assert half.layer is layer
        torch.testing.assert_close(half.scale, scale.detach(), rtol=1e-3, atol=1e-4)


def test_a_converted_model_comes_nearer_on_other_pictures() -> None:
    vit, images = make(), batches(80)
    heads = {0: {0: "table", 1: "convolution", 2: "relative"}, 1: [0, 2]}
    model = to_positional(vit, images, heads=heads, window=3).train()
    maps = [block.attn.attention_maps().clone() for block in model.blocks]
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    fresh, done = torch.randn(40, 3, 16, 16), []
    before = distance(model.eval(), vit, fresh)
    refit(model.train(), vit, images, done.append)
    assert done == [1, 1]
    assert model.training
    assert distance(model.eval(), vit, fresh) < 0.9 * before
    assert all(torch.equal(b.attn.attention_maps(), old) for b, old in zip(model.blocks, maps, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in vit.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refitted_in_single(dtype: torch.dtype) -> None:
    """As float32 copies are, rounded at the end; the original is left as it is."""
    vit, images = make().to(dtype), [batch.to(dtype) for batch in batches(80)]
    model = to_positional(vit, images, heads={0: [0, 1], 1: {2: "relative"}})
    single, target = (copy.deepcopy(one).float() for one in (model, vit))
    state, fresh = copy.deepcopy(vit.state_dict()), torch.randn(40, 3, 16, 16).to(dtype)
    check_refit(vit, images[0][:1])
    before = distance(model, vit, fresh)
    refit(model, vit, images)
    assert distance(model, vit, fresh) < 0.9 * before
    refit(single, target, [batch.float() for batch in images])
    for one, expected in ((model, single.to(dtype).state_dict()), (vit, state)):
        assert all(torch.equal(value, expected[name]) for name, value in one.state_dict().items())


def test_what_is_refused() -> None:
    vit = make()
    with pytest.raises(ValueError, match="at least 5 pictures, got 4"):
        refit(vit, vit, [torch.randn(4, 3, 16, 16)])
    torch.manual_seed(0)
    norms = timm.create_model("vit_relpos_small_patch16_rpn_224", **{**SMALL, "embed_dim": 24}).eval()
    with pytest.raises(TypeError, match="block 0 cannot be refitted: its attention does not add the output"):
        refit(norms, norms, batches())


def test_what_is_refused_is_left_as_it_is() -> None:
    """Also where the blocks before can be refitted."""
    vit, images = make(), batches(80)
    vit.blocks[1].mlp = nn.Sequential(vit.blocks[1].mlp, nn.Tanh())
    model = to_positional(vit, images)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match="block 1 cannot be refitted: its MLP does not add the output"):
        refit(model, vit, images)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_compiled_blocks() -> None:
    vit, images = make(), batches()
    model, plain = to_positional(vit, images), to_positional(vit, images)
    refit(plain, vit, images)
    for block in (*model.blocks, *vit.blocks):
        block.compile(backend="eager")
    refit(model, vit, images)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())

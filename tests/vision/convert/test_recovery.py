"""A converted model is trained back to the features of its original."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import nn

from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.better import keep_better
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.features import feature_loss
from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.quality import Outputs, Quality, features_of, outputs
from posattn.vision.convert.recovery import Normalise, Recovery, RecoveryRecord, recover
from posattn.vision.models.attention import FrozenMaps

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
HALF = Normalise((0.5,) * 3, (0.5,) * 3)
HEADS = {0: {0: "table", 1: "convolution", 2: "relative"}, 1: {0: "table", 1: "table", 2: "table"}}
CONFIG = RecoveryConfig(
    steps=24, batch_size=8, lr=1e-3, maps_lr=1e-2, warmup=0.05, checkpoint_every=7, padding=1
)


def pictures(n: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=generator)


def make() -> tuple[nn.Module, nn.Module]:
    """A model and its conversion."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch14_reg4_dinov2", **SMALL, drop_path_rate=0.1).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return to_positional(vit, HALF(pictures()), heads=HEADS, window=3), vit


def distance(model: nn.Module, vit: nn.Module) -> float:
    with torch.no_grad():
        found, target = (outputs(m.eval(), HALF(pictures())).features for m in (model, vit))
    return (1 - nn.functional.cosine_similarity(found, target)).mean().item()


def test_it_comes_nearer_and_its_maps_stay_maps() -> None:
    model, vit = make()
    before = distance(model, vit)
    maps = [block.attn.attention_maps().clone() for block in model.blocks]
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    records = list(recover(model, vit, pictures(), HALF, CONFIG))
    assert [record.step for record in records] == list(range(1, 25))
    assert distance(model, vit) < 0.7 * before
    for block, old in zip(model.blocks, maps, strict=True):
        new = block.attn.attention_maps()
        changed = (new - old).abs().amax((1, 2))
        assert (changed > 1e-4).all()  # of every head
        torch.testing.assert_close(new.sum(-1), torch.ones_like(new[..., 0]))
    assert isinstance(model.blocks[1].attn.maps, FrozenMaps)
    assert isinstance(model.blocks[0].attn, ConvertedAttention)
    assert not any(p.requires_grad for p in model.blocks[0].attn.groups.parameters())
    assert model.blocks[0].attn.v.weight.requires_grad
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in vit.state_dict().items())


def test_half_precision_is_trained_in_single() -> None:
    """As float32 copies are, rounded at the end."""
    model, vit = (one.bfloat16() for one in make())
    single, target = (copy.deepcopy(one).float() for one in (model, vit))
    losses, expected = (
        [record.loss for record in recover(*pair, pictures(), HALF, CONFIG)]
        for pair in ((model, vit), (single, target))
    )
    assert losses == expected
    rounded = single.bfloat16().state_dict()
    assert all(torch.equal(value, rounded[name]) for name, value in model.state_dict().items())
    assert next(vit.parameters()).dtype == torch.bfloat16


def stopped(records: Iterator[RecoveryRecord], step: int) -> None:
    for record in records:
        if record.step == step:
            return


@pytest.mark.parametrize("step", [7, 10, 24])
def test_interrupted_and_continued_to_the_same_weights(step: int, tmp_path: Path) -> None:
    whole, vit = make()
    records = list(recover(whole, vit, pictures(), HALF, CONFIG))
    torch.rand(3)  # other draws of the caller change nothing
    first, _ = make()
    drawn = torch.get_rng_state()
    stopped(recover(first, vit, pictures(), HALF, CONFIG, checkpoints=tmp_path), step)
    assert torch.equal(torch.get_rng_state(), drawn)  # nor are they changed
    second, _ = make()
    assert list(recover(second, vit, pictures(), HALF, CONFIG, checkpoints=tmp_path)) == records
    assert second.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("end", ["left", "loss", "maps", "checkpoint"])
def test_it_ends_early_with_constant_maps(end: str, tmp_path: Path) -> None:
    """Of the type, in the mode and with the parameters that it had."""
    model, vit = (one.bfloat16() for one in make())
    types = {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    layers = {name: type(module) for name, module in model.named_modules()}
    if end == "checkpoint":
        stopped(recover(make()[0], vit, pictures(), HALF, CONFIG, checkpoints=tmp_path), 7)
        with pytest.raises(ValueError, match="the checkpoint in"):
            recover(model, vit, pictures(), HALF, replace(CONFIG, lr=0.5), checkpoints=tmp_path)
    else:
        records = recover(model, vit, pictures(), HALF, CONFIG)
        assert next(records).step == 1
        if end != "left":
            bad = model.norm.weight if end == "loss" else model.blocks[1].attn.maps.scores.table
            bad.data.fill_(torch.nan)
            with pytest.raises(FloatingPointError, match="the loss became nan at step 2"):
                next(records)
        del records
    assert not model.training
    now = {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    assert types.items() <= now.items()
    if end != "maps":  # which are not finite, and stay as they are
        assert now == types
        assert {name: type(module) for name, module in model.named_modules()} == layers


def test_a_model_that_cannot_be_trained_is_left_as_it_was() -> None:
    _, vit = make()
    with pytest.raises(ValueError, match="VisionTransformer has no converted heads to train"):
        recover(vit.half(), vit, pictures(), HALF, CONFIG)
    assert all(p.dtype == torch.float16 for p in vit.parameters())


def test_the_rate_rises_to_its_value_and_falls() -> None:
    """Also where it is lower than timm's default for the start of a warm-up."""
    model, vit = make()
    config = replace(CONFIG, steps=20, lr=1e-6, maps_lr=1e-4, warmup=0.2)
    state = Recovery(model, vit, pictures(), HALF, config, Accelerator())
    rates = []
    for step in range(21):
        state.scheduler.step_update(step)
        rates.append([group["lr"] for group in state.optimizer.param_groups])
    weights, maps = (torch.tensor(each) for each in zip(*rates, strict=True))
    torch.testing.assert_close(weights[:5], 1e-6 * torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]), rtol=0.1, atol=0)
    assert weights.max() <= 1.0001e-6
    assert weights[-1] < 1e-8
    torch.testing.assert_close(maps, 100 * weights)


def test_the_better_of_two_states_is_kept() -> None:
    """By pictures of their own; the maps follow the weights."""
    model, vit = make()
    batches = [HALF(pictures(40)[20:])]
    with torch.no_grad():
        quality = Quality(features_of(vit, batches), nearest=3)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        worse = features_of(model, batches).features
        model.load_state_dict(start)
        with torch.enable_grad():
            list(recover(model, vit, pictures(), HALF, replace(CONFIG, steps=40)))
        trained = features_of(model, batches).features
        end = {name: value.clone() for name, value in model.state_dict().items()}
        gain = quality.of(Outputs(trained, None))["cosine"] - quality.of(Outputs(worse, None))["cosine"]
        good = keep_better(model, start, quality, batches, "cosine")
        assert good.better
        assert good.gain == pytest.approx((gain.mean().item(), gain.std().item() / 20**0.5), abs=1e-5)
        assert torch.equal(features_of(model, batches).features, trained)
        model.load_state_dict(start)
        bad = keep_better(model, end, quality, batches, "cosine")
        assert not bad.better
        assert bad.gain.mean == pytest.approx(-good.gain.mean)
        assert torch.equal(features_of(model, batches).features, trained)
        same = keep_better(model, end, quality, batches, "cosine")
        assert same == (False, (0, 0))


def test_an_error_while_the_better_state_is_found_takes_no_training_away() -> None:
    model, vit = make()
    batches = [HALF(pictures())]
    with torch.no_grad():
        quality = Quality(features_of(vit, batches), nearest=3)
    before = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    trained = copy.deepcopy(model.state_dict())
    with pytest.raises(AssertionError, match="doesn't match model"):
        keep_better(model, before, quality, [torch.zeros(1, 3, 8, 16)], "cosine")
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def test_the_loss_is_two_cosines() -> None:
    a, b = (torch.randn(3, 5, 4), torch.randn(3, 4)), (torch.randn(3, 5, 4), torch.randn(3, 4))
    similar = nn.functional.cosine_similarity
    expected = sum((1 - similar(a[0][i, j], b[0][i, j], 0)) / 15 for i in range(3) for j in range(5)) + sum(
        (1 - similar(a[1][i], b[1][i], 0)) / 3 for i in range(3)
    )
    torch.testing.assert_close(feature_loss(a, b), expected)
    assert feature_loss(a, a).abs() < 1e-6


def test_what_is_refused(tmp_path: Path) -> None:
    model, vit = make()
    with pytest.raises(ValueError, match="batch_size must be at most 5, the pictures, got 8"):
        recover(model, vit, pictures(5), HALF, CONFIG)
    with pytest.raises(ValueError, match="VisionTransformer has no converted heads to train"):
        recover(vit, vit, pictures(), HALF, CONFIG)
    stopped(recover(model, vit, pictures(), HALF, CONFIG, checkpoints=tmp_path), 7)
    other = RecoveryConfig(**{**CONFIG.__dict__, "lr": 0.5})
    with pytest.raises(ValueError, match=r"is of .*'lr': 0.001.*, this run of .*'lr': 0.5"):
        recover(make()[0], vit, pictures(), HALF, other, checkpoints=tmp_path)
    for name, value in (("steps", 0), ("batch_size", -1), ("lr", float("nan")), ("warmup", 1.5)):
        with pytest.raises(ValueError, match=name):
            RecoveryConfig(**{name: value})


def test_a_rate_of_zero_is_refused() -> None:
    """That of the maps would be 0, too: timm gives them a multiple of it."""
    with pytest.raises(ValueError, match="lr must be above 0, got 0"):
        RecoveryConfig(lr=0.0)

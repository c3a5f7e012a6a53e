"""Training on images: what is learned and recorded, in which precision, compiled or not."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from small_trainings import RICH, SHORT, few, losses, same_weights, tiny_vit
from torch import nn
from torch._dynamo.utils import counters

from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import equal_parts, evaluate, train


def test_a_tiny_vit_learns_digits() -> None:
    model = tiny_vit()
    config = TrainConfig(epochs=6, lr=5e-3, batch_size=32, warmup_epochs=1.0, precision="float32")
    records = list(train(model, load_images("digits"), config))
    assert records[-1].loss < 0.5 * records[0].loss
    assert evaluate(model, load_images("digits", "test")) > 0.7


def test_the_records_tell_the_course() -> None:
    records = list(train(tiny_vit(), few(), SHORT))
    assert [record.step for record in records] == [2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 16, 18]
    assert [record.step for record in records if record.end_of_epoch] == [6, 12, 18]
    assert records[-1].epoch == 3
    assert max(record.lr for record in records) == pytest.approx(SHORT.lr, rel=0.1)
    assert records[-1].lr < 0.02 * SHORT.lr
    assert all(record.images_per_second > 0 for record in records)
    assert [record.seconds for record in records] == sorted(record.seconds for record in records)


@pytest.mark.parametrize("lr", [0.0, 1e-6, 1e-3])
def test_no_learning_rate_is_above_the_largest(lr: float) -> None:
    config = replace(SHORT, epochs=2, lr=lr, warmup_epochs=1.0, record_every=1)
    rates = [record.lr for record in train(tiny_vit(), few(64), config)]
    assert max(rates) <= lr
    assert rates[0] <= min(1e-5, lr)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_are_mixed_for_a_model_with_more_outputs_than_classes(kind: str) -> None:
    model, config = tiny_vit(num_classes=12), replace(SHORT, epochs=1, **{kind: 0.2})
    assert all(loss > 0 for loss in losses(model, few(64), config))


def test_the_first_loss_is_that_of_the_untrained_model() -> None:
    data, model = few(32), tiny_vit()
    pixels = data.images.double() / 127.5 - 1
    expected = nn.functional.cross_entropy(tiny_vit().double()(pixels), data.labels)
    first = next(train(model, data, replace(SHORT, record_every=1)))
    assert first.loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_seed_decides_everything() -> None:
    assert losses(tiny_vit(), few(), RICH) == losses(tiny_vit(), few(), RICH)
    assert losses(tiny_vit(), few(), RICH) != losses(tiny_vit(), few(), RICH, seed=1)


def test_the_callers_generator_is_left_alone() -> None:
    model = tiny_vit()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    losses(model, few(), RICH)
    assert torch.equal(torch.rand(3), expected)


def test_parts_of_a_batch_add_up_to_it() -> None:
    whole = losses(tiny_vit(), few(), SHORT)
    parts = losses(tiny_vit(), few(), replace(SHORT, accumulation=4))
    assert parts == pytest.approx(whole, abs=1e-5)


def test_the_average_is_what_is_evaluated_and_left() -> None:
    model = tiny_vit()
    record = list(train(model, few(), replace(SHORT, ema_decay=0.5)))[-1]
    assert record.model is not model
    assert same_weights(record.model, model)
    plain = tiny_vit()
    losses(plain, few(), SHORT)
    assert not same_weights(plain, model)


def test_bfloat16_stays_near_float32() -> None:
    half = losses(tiny_vit(), few(), replace(SHORT, precision="bfloat16"))
    assert half == pytest.approx(losses(tiny_vit(), few(), SHORT), rel=0.02)
    assert half != losses(tiny_vit(), few(), SHORT)


def test_auto_is_what_the_device_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = {
        dtype: losses(tiny_vit(), few(), replace(SHORT, precision=dtype)) for dtype in ("float32", "bfloat16")
    }
    for native, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("posattn.runs.device.native_bfloat16", lambda device, native=native: native)
        records = list(
            train(tiny_vit(), few(), replace(SHORT, precision="auto"), checkpoints=tmp_path / dtype)
        )
        assert [record.loss for record in records] == by_hand[dtype]
        assert {record.precision for record in records} == {dtype}
    with pytest.raises(ValueError, match="precision='bfloat16', this run of 'float32'"):
        train(tiny_vit(), few(), replace(SHORT, precision="auto"), checkpoints=tmp_path / "bfloat16")


def test_attention_is_unfused_within_a_bfloat16_forward_alone() -> None:
    for dtype, fused in (("float32", True), ("bfloat16", False)):
        model: Any = tiny_vit()
        seen: list[bool] = []
        model.blocks[0].attn.register_forward_hook(lambda attn, *_, seen=seen: seen.append(attn.fused_attn))
        next(train(model, few(), replace(SHORT, precision=dtype)))
        assert model.blocks[0].attn.fused_attn
        assert seen[1:] == [fused] * 2  # the first call checks that model and images fit


def test_compiled_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and test: one graph for each, however often they are called, and the numbers of the model itself."""
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: real(model, backend="aot_eager", **options)
    )
    model, test_set, config = tiny_vit(), few(70), replace(SHORT, epochs=2, ema_decay=0.5)
    graphs = counters["stats"]
    graphs.clear()
    plain = [(r.loss, evaluate(r.model, test_set, batch_size=32)) for r in train(tiny_vit(), few(), config)]
    same = []
    for record in train(model, few(), replace(config, compile=True)):
        same.append((record.loss, evaluate(record.model, test_set, batch_size=32, compile=record.compiled)))
    assert record.compiled
    assert graphs["unique_graphs"] == 2
    assert [loss for loss, _ in same] == pytest.approx([loss for loss, _ in plain])
    assert [accuracy for _, accuracy in same] == pytest.approx([accuracy for _, accuracy in plain], abs=0.02)
    assert not any("_orig_mod" in name for name in [*model.state_dict(), *record.model.state_dict()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_graphs_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, a compiled training replays CUDA graphs, but not where it accumulates gradients."""
    modes, real = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: modes.append(options["mode"]) or real(model, **options)
    )
    for parts, mode in ((1, "reduce-overhead"), (2, None)):
        config = replace(SHORT, precision="float32", accumulation=parts)
        found = losses(tiny_vit(), few(), replace(config, compile=True))
        assert found == pytest.approx(losses(tiny_vit(), few(), config), abs=1e-3)
        assert modes.pop() == mode


def test_without_a_compiler_a_training_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    records = list(train(tiny_vit(), few(), replace(SHORT, compile=True)))
    assert not any(record.compiled for record in records)
    assert [record.loss for record in records] == losses(tiny_vit(), few(), SHORT)


def test_a_transform_is_applied_to_training_and_test() -> None:
    data, flip = few(), lambda images: images.flip(-1)
    mirrored = ImageSet("mirrored", data.images.flip(-1), data.labels, data.classes)
    one, other = tiny_vit(), tiny_vit()
    assert losses(one, data, SHORT, transform=flip) == losses(other, mirrored, SHORT)
    assert evaluate(one, data, transform=flip) == evaluate(one, mirrored)


def test_accuracy_is_the_share_of_right_answers() -> None:
    data, model = few(), tiny_vit()
    losses(model, data, SHORT)
    with torch.no_grad():
        answers = deepcopy(model).eval()(data.images / 127.5 - 1).argmax(-1)
    assert evaluate(model, data, batch_size=7) == evaluate(model, data) == evaluate(model, data, divide=True)
    half = evaluate(model, data, precision="bfloat16")
    assert half == pytest.approx(evaluate(model, data), abs=0.02)
    assert evaluate(model, data) == pytest.approx((answers == data.labels).double().mean().item())
    assert model.training


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(10, 4, [4, 4, 4]), (5, 4, [3, 3]), (3, 512, [3]), (512, 512, [512])]
)
def test_parts_have_one_size_and_hold_every_number(count: int, most: int, sizes: list[int]) -> None:
    parts = equal_parts(count, most)
    assert [len(part) for part in parts] == sizes
    assert torch.cat([part.unique() for part in parts]).tolist() == list(range(count))


def test_an_average_starts_from_the_weights_that_processes_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the second process, whose weights are replaced by those of the first."""

    def share(self: Accelerator, model: nn.Module) -> nn.Module:
        model.load_state_dict(first.state_dict())
        return model

    torch.manual_seed(1)
    first, own = tiny_vit(), tiny_vit()
    nn.init.normal_(own.head.weight)
    monkeypatch.setattr(Accelerator, "prepare_model", share)
    record = next(train(own, few(), replace(SHORT, lr=0.0, ema_decay=0.9, epochs=3)))
    assert same_weights(record.model, first)

"""Training on images: the recipe learns, and an interrupted run ends as one that never was."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import equal_parts, evaluate, train

SHORT = TrainConfig(
    epochs=3, batch_size=32, warmup_epochs=0.5, precision="float32", record_every=2, checkpoint_every=3
)
RICH = replace(
    SHORT,
    padding=1,
    flip=True,
    policy="trivial",
    mixup=0.2,
    cutmix=1.0,
    ema_decay=0.9,
    clip=1.0,
    accumulation=2,
)


def tiny_vit(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": 1}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **sizes | options)


def few(n: int = 200) -> ImageSet:
    return load_images("digits").select(torch.arange(n))


def losses(*arguments: object, **options: object) -> list[float]:
    return [record.loss for record in train(*arguments, **options)]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


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


@pytest.mark.parametrize("config", [SHORT, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("records", [1, 4, 7])
def test_an_interrupted_run_ends_the_same(tmp_path: Path, config: TrainConfig, records: int) -> None:
    whole, model = tiny_vit(drop_path_rate=0.2), tiny_vit(drop_path_rate=0.2)
    expected = {record.step: record.loss for record in train(whole, few(), config)}
    seen: dict[int, float] = {}
    run = train(model, few(), config, checkpoints=tmp_path)
    for _, record in zip(range(records), run, strict=False):
        seen[record.step] = record.loss
    run.close()
    model = tiny_vit(seed=9, drop_path_rate=0.2)  # other weights: all must come from the checkpoint
    if not list(tmp_path.iterdir()):
        model.load_state_dict(tiny_vit(drop_path_rate=0.2).state_dict())
    seen |= {record.step: record.loss for record in train(model, few(), config, checkpoints=tmp_path)}
    assert seen == expected
    assert same_weights(model, whole)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    model, again = tiny_vit(), tiny_vit(seed=1)
    *_, last = train(model, few(), RICH, checkpoints=tmp_path)
    (record,) = train(again, few(), RICH, checkpoints=tmp_path)
    assert record.scalars == last.scalars
    assert same_weights(model, again)
    assert same_weights(model, record.model)


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    losses(tiny_vit(), few(), SHORT, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=r"lr=0\.001, this run of 0\.1"):
        losses(tiny_vit(), few(), replace(SHORT, lr=0.1), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="another model"):
        losses(tiny_vit(embed_dim=16), few(), SHORT, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="data="):
        losses(tiny_vit(), few(150), replace(SHORT), checkpoints=tmp_path)


class Poisoned(nn.Module):
    """A classifier whose outputs are NaN from its ``after``-th training forward on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.inner, self.left = tiny_vit(), after

    def forward(self, images: Tensor) -> Tensor:
        self.left -= self.training
        return self.inner(images) * (torch.nan if self.left < 0 else 1.0)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="the loss became nan at step 8 of 18"):
        losses(Poisoned(after=7), few(), replace(SHORT, record_every=5), checkpoints=tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000003.safetensors",
        "step-00000006.safetensors",
    ]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = tiny_vit()
    model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match=r"head\.weight is not finite after step 1"):
        losses(model, few(), replace(SHORT, checkpoint_every=1), checkpoints=tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_batch_norm_goes_on_where_it_was(tmp_path: Path) -> None:
    def resnet(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10, in_chans=1)

    config = replace(SHORT, ema_decay=0.5)
    whole, model = resnet(0), resnet(1)
    losses(whole, few(), config)
    run = train(resnet(0), few(), config, checkpoints=tmp_path)
    for _ in range(6):
        next(run)
    run.close()
    losses(model, few(), config, checkpoints=tmp_path)
    assert same_weights(model, whole)


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


def test_without_a_compiler_a_training_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    records = list(train(tiny_vit(), few(), replace(SHORT, compile=True)))
    assert not any(record.compiled for record in records)
    assert [record.loss for record in records] == losses(tiny_vit(), few(), SHORT)


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "lion", "adafactor", "nadamw"])
def test_any_optimizer_goes_on_where_it_was(tmp_path: Path, optimizer: str) -> None:
    config = replace(SHORT, optimizer=optimizer)
    whole, model = tiny_vit(), tiny_vit()
    losses(whole, few(), config)
    run = train(model, few(), config, checkpoints=tmp_path)
    for _ in range(6):
        next(run)
    run.close()
    losses(model := tiny_vit(seed=1), few(), config, checkpoints=tmp_path)
    assert same_weights(model, whole)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_lower(error: Exception) -> None:
    model = tiny_vit()
    model.register_forward_hook(lambda module, inputs, outputs: raised(error) if module.training else None)
    with pytest.raises(
        MemoryError, match=r"batch_size 32 in 2 part.*: raise accumulation or lower batch_size"
    ):
        losses(model, few(), replace(SHORT, accumulation=2))


def test_out_of_memory_in_evaluation_says_what_to_lower() -> None:
    model = tiny_vit()
    handle = model.register_forward_hook(lambda *_: raised(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(MemoryError, match="out of memory with batch_size 64 in evaluation: lower batch_size"):
        evaluate(model, few(), batch_size=64)
    assert model.training
    handle.remove()
    assert 0 <= evaluate(model, few()) <= 1


def test_other_errors_stay_what_they_are() -> None:
    model = tiny_vit()
    error = NotImplementedError("no such operation")
    model.register_forward_hook(lambda module, inputs, outputs: raised(error) if module.training else None)
    with pytest.raises(NotImplementedError, match="no such operation"):
        losses(model, few(), SHORT)


def raised(error: Exception) -> None:
    raise error


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"lr": float("nan")}, "--lr must be finite, got nan"),
        ({"clip": 0.0}, "--clip must be above 0, got 0.0"),
        ({"optimizer": "adamm"}, "--optimizer must be one of timm's, such as .*adam.*, got 'adamm'"),
        ({"label_smoothing": 1.5}, "--label-smoothing must be at most 1, got 1.5"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny_vit(), few(), replace(SHORT, **changes))  # before a first step is asked for


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"batch_size": 300}, "batch_size must be at most 200, .* got 300"),
        ({}, {"batch_size": 30, "accumulation": 4}, "must divide batch_size"),
        ({"img_size": 9, "patch_size": 3}, {}, "patch height must divide image height, .*=3, .*=8"),
        ({"img_size": 16}, {}, r"does not take images of shape \(1, 8, 8\)"),
        ({"in_chans": 3}, {}, r"does not take images of shape \(1, 8, 8\)"),
        ({"num_classes": 4}, {}, "the model has 4 outputs, digits has 10 classes"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, int], changes: dict[str, int], message: str) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 1, "num_heads": 2, "in_chans": 1}
        | {"num_classes": 10}
        | options,
    )
    with pytest.raises(ValueError, match=message):
        train(model, few(), replace(SHORT, **changes))  # before a first step is asked for

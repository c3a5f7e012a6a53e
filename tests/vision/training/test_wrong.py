"""What stops a training: settings and models that do not fit, numbers that are not finite, too little memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_trainings import SHORT, few, losses, tiny_vit
from torch import Tensor, nn

from posattn.vision.training.loop import evaluate, train


class Poisoned(nn.Module):
    """A classifier whose outputs are NaN from its ``after``-th training forward on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.inner, self.left = tiny_vit(), after

    def forward(self, images: Tensor) -> Tensor:
        self.left -= self.training
        return self.inner(images) * (torch.nan if self.left < 0 else 1.0)


def test_outputs_that_are_no_numbers_are_wrong() -> None:
    """They counted as the first class."""
    model = Poisoned(after=0)
    model.left = -1
    assert evaluate(model, few()) == 0


def test_outputs_that_are_no_logits_of_the_classes_are_refused() -> None:
    """Classes without an output counted as wrong."""
    data = few()
    more = replace(data, classes=(*data.classes, "one more"))
    with pytest.raises(ValueError, match=r"K of at least 11, the classes of digits, got \(\d+, 10\)"):
        evaluate(tiny_vit(), more)
    with pytest.raises(ValueError, match=r"must be \(n, K\) .* got \(\d+, 10, 1\)"):
        evaluate(nn.Sequential(tiny_vit(), nn.Unflatten(1, (10, 1))), data)


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


def test_a_mask_of_infinities_is_saved(tmp_path: Path) -> None:
    """As causal attention keeps it in a buffer; a NaN in one is not, nor a buffer that becomes infinite."""
    model = tiny_vit()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    losses(model, few(), SHORT, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    model.mask[0] = torch.nan
    with pytest.raises(FloatingPointError, match="mask is not finite after step 3"):
        losses(model, few(), SHORT, checkpoints=tmp_path / "other")
    model = tiny_vit()
    model.register_buffer("mean", torch.zeros(2))

    def spoil(gradient: Tensor) -> None:
        model.mean.fill_(torch.inf)

    model.head.weight.register_hook(spoil)
    with pytest.raises(FloatingPointError, match="mean is not finite after step 3"):
        losses(model, few(), SHORT, checkpoints=tmp_path / "third")


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"lr": float("nan")}, "--lr must be finite, got nan"),
        ({"clip": 0.0}, "--clip must be above 0, got 0.0"),
        ({"optimizer": "adamm"}, "--optimizer must be one of timm's, such as .*adam.*, got 'adamm'"),
        ({"optimizer": "kron"}, "--optimizer must .*checkpoints, 'kron' fails: .*Tensor is not JSON"),
        ({"optimizer": "adafactorbv"}, "'adafactorbv' fails: Object of type dtype is not JSON"),
        ({"optimizer": "adahessian"}, "'adahessian' fails: .* does not have a grad_fn"),
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
    ).eval()
    with pytest.raises(ValueError, match=message):
        train(model, few(), replace(SHORT, **changes))  # before a first step is asked for
    assert not model.training

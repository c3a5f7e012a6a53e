import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from small_trainings import SHORT, few, tiny_vit
from torch import nn

from posattn.vision.data.images import load_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import train
from posattn.vision.training.precision import refuse_wrong_convolutions


def test_a_gradient_that_torch_gets_wrong_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    with refuse_wrong_convolutions(model, "cpu", "bfloat16"):
        with pytest.raises(
            ValueError, match=r"^1: torch's bfloat16 gradient of a strided convolution over one pixel"
        ):
            model(torch.zeros(2, 4, 2, 2))
        model(torch.zeros(2, 4, 4, 4))
        with torch.no_grad():
            model(torch.zeros(2, 4, 2, 2))
    model(torch.zeros(2, 4, 2, 2))


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "bfloat16"), ("cpu", "float32")])
def test_other_devices_and_types_are_left_alone(device: str, dtype: str) -> None:
    model = nn.Conv2d(4, 4, 3, 2, 1)
    with refuse_wrong_convolutions(model, device, dtype):
        assert not model._forward_pre_hooks


def test_patch_embeddings_are_left_alone() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1)
    with refuse_wrong_convolutions(model, "cpu", "bfloat16"):
        assert not any(module._forward_pre_hooks for module in model.modules())


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Flatten(), nn.Linear(16, 10))


def test_a_training_leaves_no_hooks_in_its_model() -> None:
    images = load_images("digits", "train").select(torch.arange(8))
    model, config = (
        Convolutions(),
        TrainConfig(epochs=1, warmup_epochs=0.5, batch_size=4, precision="bfloat16", ema_decay=0.5),
    )
    for record in train(model, images, config):
        assert not any(module._forward_pre_hooks for module in record.model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    model[1](torch.zeros(2, 4, 1, 1))  # as a training in float32 may do


@pytest.mark.parametrize(
    ("name", "value"), [("MIXED_PRECISION", "bf16"), ("GRADIENT_ACCUMULATION_STEPS", "4")]
)
def test_settings_of_accelerate_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``accelerate launch`` hands over those of the user's config file."""
    AcceleratorState._reset_state(True)
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    try:
        with pytest.raises(
            ValueError, match=f"accelerate must have {name.lower()} .*, got {value}: start it"
        ):
            train(tiny_vit(), few(), SHORT)
    finally:
        AcceleratorState._reset_state(True)

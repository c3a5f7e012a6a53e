"""Evaluation for a while leaves every module in the mode it had."""

import pytest
import timm
import torch
from torch import nn

from posattn.bench.cost import multiply_adds
from posattn.vision.data.images import load_images
from posattn.vision.modes import evaluating
from posattn.vision.training.loop import evaluate


def test_modules_keep_their_own_modes() -> None:
    """A part that is held in evaluation, as frozen normalisation is, stays there while the rest trains."""
    images = load_images("digits", "test")
    model = timm.create_model(
        "vit_posattn_tiny_patch16_224",
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=8,
        depth=2,
        num_heads=2,
    )
    model.train().blocks[0].eval()
    modes = [module.training for module in model.modules()]
    multiply_adds(model, torch.zeros(1, 1, 8, 8))
    evaluate(model, images)
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever a wrong shape raises)
        multiply_adds(model, torch.zeros(1, 1, 9, 9))
    assert [module.training for module in model.modules()] == modes


class Merging(nn.Linear):
    """Merges an addition into its weight in evaluation, as loralib's layers do."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


class Held(nn.BatchNorm1d):
    """Evaluates whatever it is told, until its flag is set."""

    def train(self, mode: bool = True) -> "Held":
        return super().train(False)


def test_modules_are_told_their_mode() -> None:
    model = nn.Sequential(Merging(2, 2), nn.Sequential(Merging(2, 2), Held(2)), nn.Dropout()).train()
    model[0].eval()
    model[1][1].training = True
    modes = [module.training for module in model.modules()]
    with evaluating(model):
        assert model[0].merged
        assert model[1][0].merged
    assert [module.training for module in model.modules()] == modes
    assert model[0].merged
    assert not model[1][0].merged

"""What a model is made of beside its weights."""

import pytest
import torch
from small_trainings import tiny_vit
from torch import nn

from posattn.vision.training.structure import difference, structure


class Counting(nn.Module):
    """A layer that changes an attribute whenever it runs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.calls = size, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def test_equal_models_have_no_difference() -> None:
    model = tiny_vit(drop_path_rate=0.1)
    before = structure(model)
    assert difference(before, structure(model.eval())) == ""
    assert difference(before, structure(tiny_vit(seed=5, drop_path_rate=0.1))) == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (nn.LayerNorm(4, eps=1e-6), nn.LayerNorm(4), "the whole:eps is 1e-05 there and 1e-06 here"),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU()), "0 is GELU there and ReLU here"),
        (nn.Sequential(), nn.Sequential(nn.Dropout()), "0 is Dropout there and missing here"),
        (nn.Sequential(), nn.Sequential(nn.Identity()), ""),
        (Counting(1), Counting(2), "the whole:size is 2 there and 1 here"),
    ],
)
def test_the_first_difference_is_named(ours: nn.Module, theirs: nn.Module, said: str) -> None:
    assert difference(structure(theirs), structure(ours)) == said


def test_only_settings_of_the_constructor_count() -> None:
    layer = Counting(1)
    layer(torch.zeros(1))
    assert difference(structure(Counting(1)), structure(layer)) == ""

"""Weights that do not fit a model are told by file and first names, on one line."""

from pathlib import Path

import pytest
import torch
from torch import nn

from posattn.vision.training.weights import load_weights


def deep() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))


def test_weights_that_fit_are_loaded() -> None:
    torch.manual_seed(0)
    one, other = deep(), deep()
    load_weights(one, other.state_dict(), "x")
    assert torch.equal(one[3].weight, other[3].weight)


def test_what_differs_is_named_and_counted() -> None:
    weights = deep().state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "2.bias"):
        del weights[name]
    weights |= {"head": torch.ones(1), "3.weight": torch.ones(3, 3)}
    said = (
        "kept.safetensors is of another model: missing 0.bias, 0.weight, 1.bias and 2 more; "
        "unexpected head; of another shape 3.weight"
    )
    with pytest.raises(ValueError, match=f"^{said}$"):
        load_weights(deep(), weights, Path("kept.safetensors"))

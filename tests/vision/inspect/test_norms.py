"""Norms of the patches after each block, on a model with artefact tokens that are put in."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

from posattn.vision.grid import Grid, Layout
from posattn.vision.inspect.compare import compare
from posattn.vision.inspect.inspection import inspect_attention, inspect_model
from posattn.vision.inspect.norms import norm_measures, patch_norms

ARTEFACT = 6  # a patch of a 3x5 grid


class Artefacts(nn.Module):
    """A block after which patch ``ARTEFACT`` of every second image is ten times as long."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, **options: Any) -> Tensor:
        tokens = self.block(tokens, **options)
        factor = torch.ones(*tokens.shape[:2], 1)
        factor[::2, 1 + ARTEFACT] = 10
        return tokens * factor


def make(artefacts: bool = True) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": (12, 20), "patch_size": 4, "in_chans": 1, "embed_dim": 24}
    model = timm.create_model("vit_tiny_patch16_224", **options, depth=3, num_heads=3).eval()
    if artefacts:
        model.blocks[1] = Artefacts(model.blocks[1])
    return model


def images(n: int = 8) -> Tensor:
    return torch.randn(n, 1, 12, 20, generator=torch.Generator().manual_seed(1))


def rows(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    chosen = table[table.measure == measure]
    assert chosen["head"].tolist() == [-1] * 3
    return chosen.set_index("layer")


@pytest.mark.parametrize("wrap", [False, True])
def test_artefact_tokens_are_found_in_their_layer_and_after_it(wrap: bool) -> None:
    model = make()
    found = inspect_attention(nn.DataParallel(model) if wrap else model, images())
    share, largest = rows(found, "high_norm_share"), rows(found, "largest_norm")
    assert share.value.tolist() == pytest.approx([0, 0.5 / 15, 0.5 / 15])
    each = torch.tensor([1, 0.0] * 4) / 15
    assert share.stderr[1] == pytest.approx(float(each.std() / 8**0.5))
    outputs: list[Tensor] = []
    model.blocks[1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        model(images())
    norms = outputs[0][:, 1:].norm(dim=-1)
    ratio = norms.amax(1) / torch.from_numpy(np.median(norms.numpy(), 1))
    assert largest.value[1] == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert largest.value[0] < 2
    assert rows(inspect_attention(make(False), images()), "high_norm_share").value.tolist() == [0, 0, 0]


def test_the_norms_of_examples_and_the_paired_error_of_a_difference() -> None:
    a, b = (inspect_model(make(artefacts), images(), examples=2) for artefacts in (False, True))
    assert b.norms(1, 0).shape == (3, 5)
    assert b.norms(1, 0).argmax() == ARTEFACT
    assert b.norms(1, 0).max() > 5 * a.norms(1, 0).max()
    with pytest.raises(ValueError, match="layer 1 has the norms of 2 example images, got image=2"):
        b.norms(1, 2)
    difference = rows(compare(a, b), "high_norm_share")
    assert difference.difference.tolist() == pytest.approx([0, 0.5 / 15, 0.5 / 15])
    each = torch.tensor([1, 0.0] * 4) / 15  # eight groups of one image
    assert difference.stderr[1] == pytest.approx(float(each.std() / 8**0.5))


def test_outputs_of_every_layout_are_read_and_others_are_not() -> None:
    layout = Layout(Grid(2, 3), Grid(2, 3), (4, 4))
    tokens = torch.randn(5, 6, 8)
    expected = tokens.norm(dim=-1)
    square = tokens.unflatten(1, (2, 3))
    for output in (tokens, (tokens, None), square, square.permute(0, 3, 1, 2), tokens.double()):
        found = patch_norms(output, 5, layout)
        assert found is not None
        torch.testing.assert_close(found, expected)
    with_prefix = Layout(Grid(2, 3, 1), Grid(2, 3, 1), (4, 4))
    found = patch_norms(torch.cat([9 * tokens[:, :1], tokens], 1), 5, with_prefix)
    assert found is not None
    torch.testing.assert_close(found, expected)
    pooled = Layout(Grid(2, 3), Grid(1, 3), (4, 4))
    for output, other in (
        (tokens, with_prefix),
        (tokens, pooled),
        (tokens.transpose(0, 1), layout),
        (None, layout),
    ):
        assert patch_norms(output, 5, other) is None


def test_an_image_of_zeros_has_no_high_norm() -> None:
    assert norm_measures(torch.zeros(2, 6)).flatten().tolist() == [0, 0, 0, 0]


def test_the_median_of_an_even_number_of_patches_is_between_two() -> None:
    assert norm_measures(torch.tensor([[1.0, 10.0]]))[0, 1, 0] == pytest.approx(10 / 5.5)

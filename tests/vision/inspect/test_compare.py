"""Differences of two inspections and their standard errors, against what images that are stored say."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from posattn.structure.partition import Partition
from posattn.vision.inspect.compare import compare, moved, side_of
from posattn.vision.inspect.inspection import Inspection, inspect_model


def vit(seed: int, **options: int) -> nn.Module:
    torch.manual_seed(seed)
    small = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **{**small, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(n: int = 40, seed: int = 1) -> Tensor:
    """Images that differ in contrast, so that what is measured on one varies by image in any model."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 16, 16, generator=g) * torch.rand(n, 1, 1, 1, generator=g) * 3


def entropies(model: nn.Module, pictures: Tensor) -> np.ndarray:
    """(layers, n, h), of the rows of patches, by attention that is written out."""
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        model(pictures)
    return torch.special.entr(torch.stack(maps).double())[..., 1:, :].sum(-1).mean(-1).numpy()


def test_differences_are_those_of_the_tables_and_errors_those_of_pairs() -> None:
    a, b = vit(0), vit(1)
    table = compare(inspect_model(a, images()), inspect_model(b, images().split(7)))
    assert table.attrs == {"paired": 8, "images": [40, 40]}
    change = entropies(b, images()) - entropies(a, images())
    # eight groups of five images: the jackknife over groups of equal size is the error of the groups' means
    groups = np.stack([change[:, g::8].mean(1) for g in range(8)])
    shown = table[table.measure == "entropy"]
    np.testing.assert_allclose(shown.difference, change.mean(1).ravel(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(shown.stderr, (groups.std(0, ddof=1) / 8**0.5).ravel(), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(table.difference, table.b - table.a)
    assert table[table["head"] >= 0].stderr.gt(0).all()


def test_other_images_are_independent() -> None:
    a, b = inspect_model(vit(0), images()), inspect_model(vit(1), images(seed=2))
    table = compare(a, b)
    assert table.attrs["paired"] == 0
    errors = np.hypot(*(side.table()[lambda t: t.measure == "distance"].stderr for side in (a, b)))
    np.testing.assert_allclose(table[table.measure == "distance"].stderr, errors)


def test_pairing_takes_the_spread_of_the_images_out() -> None:
    """Of a model and the same with weights a little changed, most of the spread over images is common to both."""
    near = vit(0)
    with torch.no_grad():
        near.blocks[1].attn.qkv.weight.mul_(1.02)
    whole, other = inspect_model(vit(0), images()), inspect_model(near, images())
    paired = compare(whole, other)
    entropy = paired[(paired.measure == "entropy") & (paired.layer == 1)]
    independent = np.hypot(
        *(s.table()[lambda t: (t.measure == "entropy") & (t.layer == 1)].stderr for s in (whole, other))
    )
    assert (entropy.stderr.to_numpy() < 0.3 * independent).all()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_sees_the_same_images(precision: torch.dtype) -> None:
    whole, other = inspect_model(vit(0), images()), inspect_model(vit(0).to(precision), images())
    table = compare(whole, other)
    assert table.attrs["paired"] == 8
    entropy = table[table.measure == "entropy"]
    spread = whole.table()[lambda t: t.measure == "entropy"].stderr.to_numpy()
    assert (entropy.stderr.to_numpy() < 0.1 * spread).all()


def test_a_model_does_not_differ_from_itself() -> None:
    inspection = inspect_model(vit(0), images(6))
    table = compare(inspection, inspection)
    assert (table.difference == 0).all()
    assert (table[table["head"] >= 0].stderr == 0).all()
    assert max(each.max() for each in moved(side_of(inspection), side_of(inspection))) == 0


def test_what_moved_is_the_share_that_goes_elsewhere() -> None:
    a, b = (side_of(inspect_model(vit(seed), images(4))) for seed in (0, 1))
    found = moved(a, b)[1][2]
    first, second = (side.maps[1][2, 1:, 1:].astype(float) for side in (a, b))
    rows = [np.clip(p / p.sum() - q / q.sum(), 0, None).sum() for p, q in zip(first, second, strict=True)]
    assert found == pytest.approx(np.mean(rows), rel=1e-6)
    assert 0.05 < found < 1


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = inspect_model(vit(0), images(4))
    for other, message in [
        (inspect_model(vit(0, depth=1), images(4)), r"layers: \[0, 1\] and \[0\]"),
        (inspect_model(vit(0), images(4), layers=[1]), r"layers: \[0, 1\] and \[1\]"),
        (inspect_model(vit(0, num_heads=2), images(4)), r"heads by layer: \[3, 3\] and \[2, 2\]"),
        (inspect_model(vit(0, patch_size=8), images(4)), r"grids by layer: \[\[4, 4\].*and \[\[2, 2\]"),
        (inspect_model(vit(0), images(4), radius=2.0), "radius or partition: a uniform map has locality"),
        (inspect_model(vit(0), images(4), Partition.contiguous(16, 2)), "partition: .* has association"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            compare(whole, other)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="holds no run"):
        compare(whole, tmp_path)


def test_sets_of_equal_sizes_must_be_the_same_sets() -> None:
    """By their chance level they are alike."""
    a, b, c = (
        inspect_model(vit(0), images(4), partition)
        for partition in (
            Partition.contiguous(16, 4),
            Partition.tiles((4, 4), (2, 2)),
            Partition(3 - Partition.contiguous(16, 4).labels),
        )
    )
    with pytest.raises(ValueError, match="differ in their partition"):
        compare(a, b)
    assert compare(a, c).difference.abs().max() == 0  # the numbers of the sets do not matter


def test_interrupted_inspections_are_not_paired() -> None:
    """They stand for other images, and no digest says which."""
    held: list[Inspection] = []

    def interrupted(seed: int) -> Iterator[Tensor]:
        yield images(6, seed)
        raise RuntimeError

    for seed in (0, 1):
        with pytest.raises(RuntimeError):
            inspect_model(vit(0), interrupted(seed), on_error=lambda _, inspection: held.append(inspection))
    assert compare(*held).attrs["paired"] == 0

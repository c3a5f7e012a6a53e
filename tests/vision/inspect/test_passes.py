"""An inspection gives the same numbers however it gets its images and however often it goes through them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posattn.structure.association import among_largest, own_share_of_largest
from posattn.vision.grid import Grid, Layout, neighbourhoods
from posattn.vision.inspect import average
from posattn.vision.inspect.batches import batches
from posattn.vision.inspect.inspection import Inspection, inspect_attention, inspect_model
from posattn.vision.inspect.lazy import FromMaps
from posattn.vision.inspect.sums import LayerSums


def make() -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": (12, 20), "patch_size": 4, "in_chans": 1, "embed_dim": 24}
    model = timm.create_model("vit_tiny_patch16_224", **options, depth=4, num_heads=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(n: int = 10) -> Tensor:
    return torch.randn(n, 1, 12, 20, generator=torch.Generator().manual_seed(1))


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)
    assert found.attrs["images"] == expected.attrs["images"]


class Encoded(dict[str, Any]):
    """As transformers' image processors give it."""


HOLDERS = {
    "array": lambda x: x.numpy(),
    "mapping": lambda x: {"pixel_values": x, "labels": torch.zeros(len(x))},
    "mapping of an array": lambda x: {"image": x.numpy()},
    "mapping class": lambda x: Encoded(pixel_values=x),
    "list of tensors": lambda x: list(x.split(3)),
    "list of pictures": lambda x: list(x),
    "list of arrays": lambda x: [one.numpy() for one in x],
    "list of mappings": lambda x: [{"pixel_values": part} for part in x.split(4)],
    "list of lists of pictures": lambda x: [list(part) for part in x.split(4)],
    "data loader": lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=4),
    "generator of pairs": lambda x: ((part, torch.zeros(len(part))) for part in x.split(4)),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_images_come_in_many_forms(name: str) -> None:
    assert torch.equal(torch.cat(list(batches(HOLDERS[name](images()), 3))), images())
    assert all(len(part) <= 3 for part in batches(HOLDERS[name](images()), 3))


def test_the_numbers_do_not_depend_on_the_form() -> None:
    expected = inspect_attention(make(), images())
    for name in ("mapping", "list of arrays", "list of lists of pictures", "generator of pairs"):
        same(inspect_attention(make(), HOLDERS[name](images()), batch_size=4), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("photos/", "images must be a tensor, an array or an iterable of batches, got str"),
        (3, "images must be a tensor, an array or an iterable of batches, got int"),
        ({"label": 1}, "must hold images as pixel_values, image, images, img; got label"),
        ([{"label": 1}], "must hold images as pixel_values, image, images, img; got label"),
        (["a.png"], "a batch must be a tensor, an array, a mapping or a tuple of them, got str"),
        (np.zeros((2, 1, 12, 20), np.uint8), "images must be floats"),
    ],
)
def test_anything_else_is_a_type_error(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        list(batches(wrong, 2))


def test_passes_over_layers_in_turn_give_the_numbers_of_one_pass() -> None:
    whole = inspect_model(make(), images(), examples=2)
    size = 3 * 16 * 16 * 4  # bytes of a layer's maps
    for memory, turns in ((8 * 4 * size, 1), (4 * 2 * size, 2), (4 * size, 4), (1.0, 4)):
        parts = inspect_model(make(), images(), memory=memory, examples=2)
        assert len(parts.plan.turns) == turns
        assert parts.plan.groups == (8 if turns == 1 else 4)
        found, expected = parts.table(), whole.table()
        if turns > 1:  # fewer groups: jackknifes of the average map have another error, nothing else has
            of_average = found.measure.isin(average.AVERAGE_MEASURES)
            assert found[of_average].stderr.gt(0).any()
            found.loc[of_average, "stderr"] = expected.loc[of_average, "stderr"] = 0.0
        same(found, expected)
        assert parts.digest == whole.digest
        for layer in range(4):
            np.testing.assert_allclose(parts.maps(layer), whole.maps(layer), atol=1e-6)
            np.testing.assert_array_equal(parts.maps(layer, 1), whole.maps(layer, 1))
    with pytest.raises(
        ValueError, match=r"can be gone through once, but 4 passes are needed within memory=1:"
    ):
        inspect_attention(make(), iter(images().split(4)), memory=1.0)


class Turning:
    """Images that start with the first ``same`` times, then with the next, and so on."""

    def __init__(self, same: int) -> None:
        self.same, self.times = same, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.times += 1
        return iter(images().roll(max(0, self.times - self.same), 0).split(4))


def test_images_must_be_the_same_in_every_pass() -> None:
    """Else the examples of the layers are of other images. In one pass they may come in any order."""
    kept: list[Inspection] = []
    with pytest.raises(
        ValueError, match="come in another order each time, or are drawn anew, but 4 passes are needed"
    ):
        inspect_model(make(), Turning(1), memory=1.0)
    late = Turning(8)  # looked into before the passes begin
    with pytest.raises(ValueError, match="images were others, or in another order, in pass"):
        inspect_model(make(), late, memory=1.0, on_error=lambda _, measured: kept.append(measured))
    assert 1 <= len(kept[0].results) <= 3
    assert inspect_model(make(), Turning(1)).images == 10


def test_chosen_layers_have_the_numbers_that_they_have_among_all() -> None:
    expected = inspect_attention(make(), images())
    found = inspect_attention(make(), images(), layers=[3, 1])
    assert found.attrs["numbers"] == [1, 3]
    assert found.attrs["layers"] == ["blocks.1.attn", "blocks.3.attn"]
    chosen = expected[expected.layer.isin([1, 3, -1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, chosen)
    for layers in ([4], [0, -1]):
        with pytest.raises(ValueError, match=rf"the model has layers 0\.\.3, got layers=\[{layers[-1]}\]"):
            inspect_attention(make(), images(), layers=layers)


@pytest.mark.parametrize("spread", [0.001, 3.0])
def test_sums_in_float32_are_those_of_float64(spread: float) -> None:
    """Of many maps, nearly uniform ones too, where the sum of what differs is small."""
    layout = Layout(Grid(5, 5, 1), Grid(5, 5, 1), (1.0, 1.0))
    single, double = LayerSums(layout, 1.5), LayerSums(layout, 1.5)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(1, 2, 26, 26, generator=generator, dtype=torch.double)
    for _ in range(40):
        noise = torch.randn(100, 2, 26, 26, generator=generator, dtype=torch.double)
        maps = (spread * (mean + noise)).softmax(-1)
        single.add(FromMaps(maps.float()), 100)
        double.add(FromMaps(maps), 100)
    assert single.maps.dtype == torch.float32
    assert double.maps.dtype == torch.double
    groups, own = single.values.groups, neighbourhoods(Grid(5, 5))
    found, expected = (average.estimator(sums, own)(groups) for sums in (single, double))
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=0)
    assert 0.1 < expected[0].min() < expected[0].max() < 0.9
    ours, theirs = single.average() - 1 / 26, double.average() - 1 / 26
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    torch.testing.assert_close(single.values.mean, double.values.mean, rtol=1e-6, atol=1e-7)


def test_shares_of_the_largest_are_those_of_chances(generator: torch.Generator) -> None:
    """Against the chance of each entry, with ties, sets of several sizes and patches in none."""
    own = torch.rand(12, 12, generator=generator) < 0.3
    own[3] = False
    maps = torch.randint(0, 4, (2, 5, 12, 12), generator=generator).float()
    expected = (among_largest(maps, own.sum(-1)) * own).sum(-1) / own.sum(-1)
    found = own_share_of_largest(maps, own)
    assert found[..., 3].isnan().all()
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_arrays_are_the_callers_own() -> None:
    inspection = inspect_model(make(), images(), examples=1)
    for get in (
        lambda: inspection.maps(0),
        lambda: inspection.norms(0, 0),
        lambda: inspection.attention_from(0, 0, (0, 0)),
    ):
        before = get().copy()
        get()[:] = 5.0
        np.testing.assert_array_equal(get(), before)

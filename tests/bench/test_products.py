"""All forms of a pruned product are the dense one. No time is asserted."""

import pytest
import torch

from posattn.bench.products import Pruned, forms, local_maps, tiles, timed
from posattn.vision.models.freeze import largest


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_is_the_product(dtype: torch.dtype, generator: torch.Generator) -> None:
    side = 16
    weights, keys = largest(local_maps(side, 2, 1.0), 5)
    maps = weights.new_zeros(2, side**2, side**2).scatter(2, keys, weights)
    columns = torch.randn(2, side**2, 16, generator=generator)
    order = tiles(side, 8), tiles(side, 4)
    found = forms(maps.to(dtype), columns.to(dtype), side)
    assert len(found) == (9 if dtype == torch.float32 else 6)
    for name, work in found.items():
        expected = maps @ columns
        if "tiles" in name:
            expected = expected[:, order["4x4" in name]]
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        with torch.compiler.set_stance("force_eager"):  # compiling FlexAttention takes half a minute
            result = work().float()
        torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance, msg=name)


def test_tiles_are_squares_of_the_grid() -> None:
    places = tiles(8, 4).view(4, 16)
    assert sorted(places.flatten().tolist()) == list(range(64))
    for tile in places:
        assert (tile // 8).max() - (tile // 8).min() == 3
        assert (tile % 8).max() - (tile % 8).min() == 3


def test_all_are_timed_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posattn.bench.products.forms", lambda *args: {"a": list, "b": list})
    assert {name: len(seconds) for name, seconds in timed(Pruned(side=16, rounds=2)).items()} == {
        "a": 2,
        "b": 2,
    }

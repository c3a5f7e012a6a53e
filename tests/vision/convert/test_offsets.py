"""Maps by offset: the fit is exact where a map is of that form, and a convolution is what its dense maps say."""

import pytest
import torch
from torch import nn

from posattn.vision.convert.heads import ConvolutionHeads, Place
from posattn.vision.convert.offsets import OffsetMaps, fit_offsets
from posattn.vision.grid import offsets
from posattn.vision.models.scores import Grid

GRIDS = [Grid(4, 4), Grid(3, 6, 1), Grid(7, 5, 3)]
FORMS = {"relative": (None, False), "window": ((3, 5), False), "far": ((3, 3), True)}


def random_maps(grid: Grid, form: str, heads: int = 2) -> OffsetMaps:
    torch.manual_seed(0)
    maps = OffsetMaps(heads, grid, *FORMS[form]).double()
    for parameter in maps.parameters():
        parameter.data.normal_(std=2)
    return maps


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_dense_maps_against_the_definition(grid: Grid, form: str) -> None:
    maps = random_maps(grid, form, heads=1)
    found, (height, width), P = maps.dense(grid.size)[0], grid.size, grid.prefix
    weights, D = maps.kernel[0].exp(), height * width
    for i in range(D):
        row = torch.zeros(D, dtype=torch.double)
        for j in range(D):
            down = j // width - i // width + weights.shape[0] // 2
            right = j % width - i % width + weights.shape[1] // 2
            if 0 <= down < weights.shape[0] and 0 <= right < weights.shape[1]:
                row[j] = weights[down, right]
        odds = maps.columns[0, i].exp()
        rest = 1 / (1 + odds.sum())
        expected = rest * row / row.sum() + (rest * odds[P] / D if maps.far else 0)
        torch.testing.assert_close(found[P + i, P:], expected)
        torch.testing.assert_close(found[P + i, :P], rest * odds[:P])
    torch.testing.assert_close(found[:P], maps.prefix_rows[0].softmax(-1))
    torch.testing.assert_close(found.sum(-1), torch.ones(grid.num_tokens, dtype=torch.double))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_fit_finds_maps_of_its_form(grid: Grid, form: str) -> None:
    dense = random_maps(grid, form).dense(grid.size)
    fitted = fit_offsets(dense, grid, *FORMS[form])
    torch.testing.assert_close(fitted.dense(grid.size), dense, atol=1e-5, rtol=1e-4)


def test_the_fit_keeps_what_each_patch_gives_to_prefix_tokens() -> None:
    grid = Grid(4, 5, 2)
    maps = torch.rand(3, 22, 22, dtype=torch.double).pow(4)
    maps = maps / maps.sum(-1, keepdim=True)
    for window, far in ((None, False), ((3, 3), True)):
        fitted = fit_offsets(maps, grid, window, far).dense(grid.size)
        torch.testing.assert_close(fitted[:, :, :2], maps[:, :, :2])
        torch.testing.assert_close(fitted[:, :2], maps[:, :2])
        torch.testing.assert_close(fitted.sum(-1), torch.ones(3, 22, dtype=torch.double))


def test_the_fit_is_the_most_likely_one() -> None:
    """No change of a weight makes the rows of a map that is not by offset more likely."""
    grid = Grid(3, 4)
    maps = torch.rand(1, 12, 12, dtype=torch.double).pow(3)
    maps = maps / maps.sum(-1, keepdim=True)
    fitted = fit_offsets(maps, grid)
    likelihood = (maps * fitted.dense(grid.size).log()).sum()
    (gradient,) = torch.autograd.grad(likelihood, fitted.kernel)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("down", "right", "error"), [(0, 0, 1e-6), (-1, -1, 0.01), (0, -2, 0.04), (0, -3, 0.07), (-4, 4, 0.2)]
)
def test_how_well_narrow_maps_are_kept(down: int, right: int, error: float) -> None:
    """The bounds that docs/convert.md states."""
    grid = Grid(14, 14)
    rows, columns = offsets(grid)  # to a query from a key
    apart = (rows + down).square() + (columns + right).square()
    maps = (-20 * apart).softmax(-1)[None]
    assert (fit_offsets(maps, grid).dense(grid.size) - maps).abs().max() < error


def test_rows_of_zeros_and_ones_are_taken() -> None:
    grid = Grid(3, 3, 1)
    maps = torch.eye(10)[None].repeat(2, 1, 1)
    torch.testing.assert_close(fit_offsets(maps, grid).dense(grid.size), maps.double(), atol=1e-6, rtol=0)
    maps = torch.zeros(1, 10, 10)
    maps[:, :, 0] = 1  # all on the class token
    torch.testing.assert_close(
        fit_offsets(maps, grid, (3, 3), True).dense(grid.size), maps.double(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("size", [None, (6, 8)])
@pytest.mark.parametrize("form", ["window", "far"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_convolution_is_its_dense_maps(grid: Grid, form: str, size: tuple[int, int] | None) -> None:
    embed = nn.Module()
    embed.grid_size = size = size or grid.size
    heads = ConvolutionHeads(random_maps(grid, form, heads=3), Place(embed), nn.Dropout())
    heads.eval()
    values = torch.randn(2, grid.prefix + size[0] * size[1], 3 * 4, dtype=torch.double)
    split = values.unflatten(2, (3, 4)).permute(0, 2, 1, 3)
    expected = (heads.attention_maps() @ split).permute(0, 2, 1, 3).flatten(2)
    torch.testing.assert_close(heads(values), expected)
    with pytest.raises(ValueError, match=rf"for a grid of \({size[0]}, {size[1]}\), got"):
        heads(values[:, 1:])


@pytest.mark.parametrize("form", FORMS)
def test_another_grid_keeps_the_shares_and_the_shape(form: str) -> None:
    """On twice the grid: rows sum to 1, mass on the prefix tokens stays, and the mean distance doubles."""
    grid, maps = Grid(6, 6, 1), random_maps(Grid(6, 6, 1), form, heads=1)
    rows = torch.arange(maps.kernel.shape[1]) - maps.kernel.shape[1] // 2
    columns = torch.arange(maps.kernel.shape[2]) - maps.kernel.shape[2] // 2
    maps.kernel.data[0] = -(rows[:, None] ** 2 + columns[None] ** 2).double() / 2
    maps.columns.data.fill_(-1)
    maps.prefix_rows.data.zero_()
    small, large = (maps.dense(size)[0] for size in (grid.size, (12, 12)))
    torch.testing.assert_close(large.sum(-1), torch.ones(145, dtype=torch.double))
    torch.testing.assert_close(large[1:, 0], small[1:, 0].mean().expand(144))
    torch.testing.assert_close(large[0, 0], small[0, 0])
    spread = []
    for dense, width in ((small, 6), (large, 12)):
        middle = dense[1 + width * (width // 2) + width // 2, 1:].unflatten(0, (width, width))
        places = torch.arange(width) - width // 2
        spread.append((middle.sum(0) * places.abs()).sum() / middle.sum())
    if form == "relative":
        assert 1.6 < spread[1] / spread[0] < 2.4


def test_gradients_reach_every_parameter() -> None:
    grid = Grid(4, 4, 1)
    embed = nn.Module()
    embed.grid_size = grid.size
    maps = random_maps(grid, "far")
    heads = ConvolutionHeads(maps, Place(embed), nn.Dropout(0.0))
    (heads(torch.randn(2, 17, 8, dtype=torch.double)) ** 2).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in maps.parameters())


def test_a_window_of_a_single_patch_stays_one() -> None:
    assert OffsetMaps(1, Grid(4, 4), (1, 1)).window_on(Grid(8, 8)) == (1, 1)
    assert OffsetMaps(1, Grid(8, 8), (3, 3)).window_on(Grid(2, 2)) == (3, 3)


@pytest.mark.parametrize("height", [2, 3])
def test_on_a_single_row_or_column_maps_are_those_of_the_middle(height: int) -> None:
    """Turned upside down and on its side the grid has the same maps."""
    grid = Grid(height, 5)
    maps, mirrored, turned = (random_maps(each, "relative") for each in (grid, grid, Grid(5, height)))
    mirrored.kernel.data, turned.kernel.data = maps.kernel.flip(1), maps.kernel.mT
    places = torch.arange(height * 5).view(height, 5)
    mirrored.columns.data = maps.columns[:, places.flip(0).flatten()]
    turned.columns.data = maps.columns[:, places.T.flatten()]
    dense = maps.dense((1, 5))
    torch.testing.assert_close(mirrored.dense((1, 5)), dense)
    torch.testing.assert_close(turned.dense((5, 1)), dense)
    assert torch.equal(maps.on((1, 5)).kernel[:, 0], maps.kernel[:, height - 1])

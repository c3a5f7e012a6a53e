"""Maps, rollout and the notebook's view of an inspection, against maps that are stored and computed by hand."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

from posattn.recipes.inspect.run import tensors
from posattn.vision.inspect.compare import side_of
from posattn.vision.inspect.inspection import Inspection, inspect_model
from posattn.vision.inspect.rollout import attention_rollout
from posattn.vision.inspect.view import grids_html


def vit() -> nn.Module:
    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 24, "depth": 3, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, reg_tokens=1, **small).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images() -> Tensor:
    return torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return inspect_model(vit(), images(), examples=2)


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    """(layers, n, h, N, N), by attention that is written out."""
    model, maps = vit(), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        model(images())
    return torch.stack(maps).double().numpy()


def test_maps_are_those_of_the_model(inspection: Inspection, stored: np.ndarray) -> None:
    for layer in range(3):
        np.testing.assert_allclose(inspection.maps(layer), stored[layer].mean(0), atol=1e-6)
        np.testing.assert_allclose(inspection.maps(layer, image=1), stored[layer, 1], atol=5e-4)
    assert inspection.maps(0).dtype == np.float32


@pytest.mark.parametrize(("query", "token"), [((0, 0), 2), ((3, 1), 15), (0, 0), (1, 1)])
def test_any_query_is_given_over_the_grid(
    inspection: Inspection, stored: np.ndarray, query: int | tuple[int, int], token: int
) -> None:
    row = inspection.attention_from(2, 1, query)
    assert row.shape == (4, 4)
    np.testing.assert_allclose(row.flatten(), stored[2, :, 1, token, 2:].mean(0), atol=1e-6)
    single = inspection.attention_from(2, 1, query, image=0)
    np.testing.assert_allclose(single.flatten(), stored[2, 0, 1, token, 2:], atol=5e-4)


def by_paths(maps: np.ndarray) -> np.ndarray:
    """Rollout of (layers, N, N) as the probability of a walk that stays or follows attention, token by token."""
    N = maps.shape[-1]
    found = np.zeros((N, N))
    for start in range(N):
        at = np.zeros(N)
        at[start] = 1.0
        for layer in maps[::-1]:  # from the last layer down to the image
            at = np.array([0.5 * at[j] + 0.5 * sum(at[i] * layer[i, j] for i in range(N)) for j in range(N)])
        found[start] = at
    return found


def test_rollout_is_a_walk_down_the_layers(inspection: Inspection, stored: np.ndarray) -> None:
    heads = stored.mean(2)
    np.testing.assert_allclose(inspection.rollout(), by_paths(heads.mean(1)), atol=1e-6)
    np.testing.assert_allclose(inspection.rollout(image=1), by_paths(heads[:, 1]), atol=2e-4)
    assert np.abs(inspection.rollout() - inspection.rollout(image=1)).max() > 0.01
    np.testing.assert_allclose(inspection.rollout(image=0).sum(-1), 1.0)


class Upside(nn.Module):
    """A model that registers its blocks in another order than it runs them in."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = reversed(vit().blocks)
        self.patch_embed, self.num_prefix_tokens, self.whole = vit().patch_embed, 2, [vit()]

    def forward(self, pictures: Tensor) -> Tensor:
        tokens = self.whole[0]._pos_embed(self.patch_embed(pictures))
        return self.last(self.middle(self.first(tokens)))


def test_layers_may_run_in_another_order_than_that_of_their_numbers(inspection: Inspection) -> None:
    upside = inspect_model(Upside(), images(), examples=2)
    np.testing.assert_allclose(upside.rollout(), inspection.rollout(), atol=1e-7)
    np.testing.assert_allclose(upside.rollout(image=1), inspection.rollout(image=1), atol=1e-7)
    saved = tensors(upside, torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    for number in range(3):
        np.testing.assert_allclose(upside.maps(number), inspection.maps(2 - number), atol=1e-7)
        np.testing.assert_array_equal(side_of(upside).maps[number], upside.maps(number))
        np.testing.assert_allclose(saved[f"average.{number}"], upside.maps(number), atol=1e-3)


def test_rollout_normalises_rows_and_keeps_the_order_of_layers() -> None:
    first, second = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    mixed = [0.5 * maps.mean(0) + 0.5 * torch.eye(5) for maps in (first, second)]
    a, b = (m / m.sum(1, keepdim=True) for m in mixed)
    torch.testing.assert_close(attention_rollout([first, second]), b @ a)
    assert not torch.allclose(b @ a, a @ b)


def test_what_is_not_there_is_named(inspection: Inspection) -> None:
    for wrong, message in [
        (lambda: inspection.maps(7), "layers 0, 1, 2 are inspected, got layer=7"),
        (lambda: inspection.maps(0, image=2), "2 example images, got image=2"),
        (lambda: inspection.attention_from(0, 3, 0), "heads 0..2, got head=3"),
        (lambda: inspection.attention_from(0, 0, (4, 0)), r"4x4 grid, got \(4, 0\)"),
        (lambda: inspection.attention_from(0, 0, 2), "one of 2 class tokens and registers, got 2"),
        (lambda: attention_rollout([]), "at least one layer"),
        (lambda: attention_rollout([torch.ones(1, 3, 3), torch.ones(1, 4, 4)]), r"\(1, 4, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_rollout_is_refused_where_layers_are_missing_or_windowed() -> None:
    for layers in ([1, 2], [0, 1]):
        with pytest.raises(
            ValueError, match=rf"needs all 3 layers, the inspection has layers \[{layers[0]}, "
        ):
            inspect_model(vit(), images(), layers=layers).rollout()
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=12, depths=(1, 1))
    with pytest.raises(ValueError, match="all tokens"):
        inspect_model(swin, torch.randn(2, 3, 56, 56)).rollout()


class Cells(HTMLParser):
    """The tags of a document, and the titles of its table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [title for name, title in attrs if name == "title" and title and tag == "td"]


def test_a_notebook_shows_every_measure_of_every_head(inspection: Inspection) -> None:
    html, table = inspection._repr_html_(), inspection.table()
    cells = Cells(html)
    shown = table[table["head"] >= 0]
    assert cells.titles == [
        f"{value:.4g} ± {error:.2g}"
        for _, group in shown.groupby("measure", sort=False)
        for value, error in zip(group.value, group.stderr, strict=True)
    ]
    assert "script" not in cells.tags
    assert html.count("<details") == shown.measure.nunique()


def test_cells_of_other_colours_show_other_numbers_and_zero_has_no_sign() -> None:
    values = [-0.0021, -0.000001, 5.19]
    table = pd.DataFrame(
        {
            "layer": 0,
            "head": [0, 1] * 2,
            "measure": ["a", "a", "b", "b"],
            "value": [*values, 5.1878],
            "stderr": 0.0,
        }
    )
    html = grids_html(table)
    assert all(f">{text}</td>" in html for text in ("-0.0021", "0.0000", "5.1900", "5.1878"))
    assert "a: -0.0021 to 0.0000" in html


def test_rollout_of_two_softmaxes_per_head_is_refused() -> None:
    small = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 24, "depth": 1, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, attn_layer="diff", **small)
    with pytest.raises(ValueError, match=r"one map per head; blocks\.0\.attn takes one softmax from another"):
        inspect_model(model, images()).rollout()

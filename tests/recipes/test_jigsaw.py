"""The jigsaw: positions of shuffled images put back from scores."""

import json
from pathlib import Path

import pytest
import torch
from puzzles import permutation, smooth_scores

from posattn import cli
from posattn.recipes.jigsaw.puzzle import (
    brightness_similarity,
    in_true_order,
    patch_brightness,
    piece_together,
    puzzle_tensors,
)
from posattn.vision.data.images import shuffle_patches
from posattn.vision.jigsaw.layout import partial_correlation

GRID = (4, 6)


def shuffled_maps(order: torch.Tensor) -> torch.Tensor:
    """Maps over positions that hold the patches of ``order``, of scores that are smooth over the grid."""
    return smooth_scores(GRID)[:, order][:, :, order].softmax(-1).unflatten(0, (4, 6))


def test_true_order_undoes_the_shuffling() -> None:
    found = in_true_order(shuffled_maps(permutation(24)), permutation(24))
    assert torch.allclose(found, shuffled_maps(torch.arange(24)), atol=1e-12)


def test_the_layout_is_pieced_together_whatever_the_permutation() -> None:
    found = [
        piece_together(shuffled_maps(order), order, GRID, 2, 10) for order in map(permutation, [24], [5])
    ]
    plain = piece_together(shuffled_maps(torch.arange(24)), torch.arange(24), GRID, 2, 10)
    for one in (*found, plain):
        assert one["pairs"] == 1
        assert one["recall"] > 0.95
        assert one["profile_association"] > 0.6 > 1.5 * one["profile_chance"]
    assert found[0]["association"] == pytest.approx(plain["association"])
    assert found[0]["layout"] == permutation(24, 5).tolist()


def test_maps_so_sharp_that_an_entry_is_0_are_pieced_together() -> None:
    """In float32 a score 104 below the largest of its row has no attention: the run failed after its training."""
    order = permutation(24)
    maps = (150 * shuffled_maps(order).log()).softmax(-1).float()
    assert maps.min() == 0
    assert 0 <= piece_together(maps, order, GRID, 2, 10)["recall"] <= 1
    images = torch.zeros(1, 1, 8, 12, dtype=torch.uint8)
    assert puzzle_tensors(maps, order, order, 2, images)["similarity"].isfinite().all()


def test_the_right_layout_puts_the_pictures_back() -> None:
    images = torch.randint(256, (2, 3, 8, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    order = permutation(24)
    found = puzzle_tensors(shuffled_maps(order), order, order, 2, images)
    (before, seen, again), relations = found["pictures"], found["similarity"]
    assert torch.equal(before, images)
    assert torch.equal(seen, shuffle_patches(images, 2, order))
    assert torch.equal(again, images)
    assert relations.shape == (2, 24, 24)
    assert relations[0].diagonal().eq(0).all()


def test_patch_brightness_is_means_of_patches() -> None:
    images = torch.rand(5, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    pixels = patch_brightness(images, 2)
    assert pixels.shape == (10, 6)
    assert torch.allclose(pixels.mean(0), torch.zeros(6), atol=1e-6)
    apart = pixels[3, 4] - pixels[0, 4]
    assert apart == pytest.approx(
        (images[1, 1, 2:4, 2:4].mean() - images[0, 0, 2:4, 2:4].mean()).item(), abs=1e-6
    )


def test_a_patch_that_is_always_the_same_is_like_no_other() -> None:
    pixels = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    pixels[:, 2] = 0.3
    found, others = brightness_similarity(pixels), torch.tensor([0, 1, 3, 4])
    assert found[2].eq(0).all()
    assert found[:, 2].eq(0).all()
    assert torch.equal(found[others][:, others], partial_correlation(pixels[:, others]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tile", "3"], "--tile must divide rows of patches, got tile=3, rows of patches=4"),
        (
            ["--patch-size", "8", "--tile", "1"],
            "--patch-size must leave at least three patches, got 8: 1 x 1",
        ),
    ],
)
def test_a_grid_that_cannot_be_solved_is_refused_before_training(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "jigsaw", "--smoke", "--jobs", "1", *options, "--out", str(tmp_path / "run")])
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_recipe_reports_every_seed_and_shows_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cli.main(["run", "jigsaw", "--smoke", "--jobs", "1", "--out", str(folder)])
    numbers = json.loads((folder / "result.json").read_text())["jigsaw"]
    assert set(numbers["seeds"]) == {"shuffled/0", "shuffled/1", "plain/0"}
    for one in numbers["seeds"].values():
        assert sorted(one["layout"]) == list(range(16))
        assert 0 < one["pairs"] <= 1
    # digits of 4x4 patches are told apart from noise by the images themselves
    assert numbers["baselines"]["images"]["recall"] > numbers["baselines"]["noise"]["recall"] + 0.2
    assert "put back together" in (folder / "report.html").read_text()

"""Measures of average maps, their jackknife error, and the sets recovered from them, on maps with a known answer."""

import numpy as np
import pytest
import torch

from posattn.structure.partition import Partition
from posattn.vision.grid import Grid, Layout, neighbourhoods
from posattn.vision.inspect import average
from posattn.vision.inspect.lazy import FromMaps
from posattn.vision.inspect.sums import LayerSums


def layout(side: int) -> Layout:
    return Layout(Grid(side, side), Grid(side, side), (1.0, 1.0))


@pytest.mark.usefixtures("unchecked")
def test_the_noise_correction_is_unbiased_where_the_plain_share_is_not(generator: torch.Generator) -> None:
    n = 6
    mean = torch.randn(1, 1, 9, 9, generator=generator)

    def estimate() -> tuple[float, float]:
        sums = LayerSums(layout(3), 1.5)
        sums.add(FromMaps((mean + 1.5 * torch.randn(n, 1, 9, 9, generator=generator)).softmax(-1)), n)
        total = sums.total(sums.values.groups)
        plain = ((sums.average() - 1 / 9) ** 2).sum() / total.item()
        return float(average.positionality(sums.average(), total, n)), float(plain)

    many = LayerSums(layout(3), 1.5)
    many.add(FromMaps((mean + 1.5 * torch.randn(20_000, 1, 9, 9, generator=generator)).softmax(-1)), 20_000)
    truth = float(average.positionality(many.average(), many.total(many.values.groups), 20_000))
    corrected, plain = np.mean([estimate() for _ in range(400)], axis=0)
    assert corrected == pytest.approx(truth, abs=0.01)
    assert plain > truth + 0.07


def test_profiles_show_sets_that_attention_itself_does_not() -> None:
    """Every set attends to the next: patches of a set have one profile, and none looks at its own set."""
    partition = Partition.contiguous(12, 3)
    scores = 5.0 * (partition.labels[:, None] + 1 == partition.labels) + 5.0 * (
        (partition.labels[:, None] == 3) & (partition.labels == 0)
    )
    maps = scores.softmax(-1)[None]
    assert average.association(maps, partition.same).item() == pytest.approx(0, abs=0.01)
    assert average.profile_association(maps, partition.same).item() == pytest.approx(1)
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = Partition(partition.labels[shuffle])
    moved = maps[:, shuffle][:, :, shuffle]
    assert average.profile_association(moved, shuffled.same).item() == pytest.approx(1)


def test_profile_association_ignores_what_all_rows_and_columns_share(generator: torch.Generator) -> None:
    scores = torch.randn(2, 16, 16, generator=generator, dtype=torch.double)
    # a favourite column does not change a profile
    shifted = scores + torch.randn(16, generator=generator) * 2
    own = neighbourhoods(Grid(4, 4))
    plain, moved = (average.profile_association(s.softmax(-1), own) for s in (scores, shifted))
    torch.testing.assert_close(plain, moved)


@pytest.mark.parametrize("maps", [1, 20])  # one for all images, or one of each
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 12.0])
def test_profiles_of_local_heads_are_those_of_exact_logarithms(
    sharpness: float, maps: int, generator: torch.Generator
) -> None:
    """A patch attends by about exp(-sharpness·distance²): entries far below the 1/K of a uniform map matter."""
    places = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    log = 0.3 * torch.randn(64, 64, generator=generator) - sharpness * torch.cdist(places, places).square()
    sums, own = LayerSums(layout(8), 1.5), neighbourhoods(Grid(8, 8))
    sums.add(FromMaps(log.float().softmax(-1).expand(maps, 1, -1, -1)), 20)
    found = average.estimator(sums, own)(sums.values.groups)[:, 0].tolist()
    shown = log.softmax(-1).clamp(min=torch.finfo(torch.float32).tiny).log()
    centred = shown - shown.mean(0) - shown.mean(1, keepdim=True) + shown.mean()
    profiles = torch.nn.functional.normalize(torch.cat([centred, centred.T], 1), dim=1)
    shares = []
    for patch, cosines in enumerate(profiles @ profiles.T):
        company = set(own[patch].nonzero().flatten().tolist()) - {patch}
        nearest = sorted(set(range(64)) - {patch}, key=lambda other: -float(cosines[other]))[: len(company)]
        shares.append(len(company & set(nearest)) / len(company))
    among = log.softmax(-1).argsort(descending=True)
    nearby = [own[i, row[: own[i].sum()]].double().mean() for i, row in enumerate(among)]
    assert found == pytest.approx([1.0, np.mean(nearby), np.mean(shares)], abs=1e-6)


def test_noise_has_no_stable_sets(generator: torch.Generator) -> None:
    sums = LayerSums(layout(4), 1.5)
    sums.add(FromMaps(torch.randn(40, 2, 16, 16, generator=generator).softmax(-1)), 40)
    _, agreement = average.recovered_sets(sums, 4)
    assert (agreement < average.STABLE).all()


@pytest.mark.usefixtures("unchecked")
def test_the_jackknife_is_the_spread_over_repetitions() -> None:
    generator = torch.Generator().manual_seed(0)
    own, mean = neighbourhoods(Grid(3, 3)), torch.randn(9, 9, generator=generator)
    values, errors = [], []
    for _ in range(100):
        sums = LayerSums(layout(3), 1.5)
        sums.add(FromMaps((mean + torch.randn(64, 1, 9, 9, generator=generator)).softmax(-1)), 64)
        estimate, groups = average.estimator(sums, own), sums.values.groups
        values.append(float(estimate(groups)[0, 0]))
        errors.append(float(average.jackknife_error(average.without_each(estimate, groups))[0, 0]))
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_patches_in_no_set_are_left_out_of_association(generator: torch.Generator) -> None:
    partition = Partition([0, 1, 0, -1, 1, -1, 0, 1])
    maps = torch.where(partition.same, 1.0, 0.1) + 0.01 * torch.rand(2, 8, 8, generator=generator)
    assert average.association(maps, partition.same).tolist() == pytest.approx([1, 1])
    assert average.chance(partition.same, itself=True) == pytest.approx(3 / 8)

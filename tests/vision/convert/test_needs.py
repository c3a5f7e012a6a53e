"""What heads need, orders and curves, against models converted one by one."""

import pytest
import timm
import torch
from torch import nn

from posattn.vision.convert.averages import map_statistics
from posattn.vision.convert.heads import KINDS, TABLE
from posattn.vision.convert.maps import replace_heads
from posattn.vision.convert.needs import Unit, best_kept, choice_of, losses_alone, units_of
from posattn.vision.convert.orders import (
    POSITIONALITY,
    VARIATION,
    Point,
    at_random,
    by_cost,
    by_statistic,
    counts_of,
    curve,
    greedy_start,
    greedy_step,
    within_budget,
)
from posattn.vision.convert.quality import Estimate, Quality, features_of, outputs
from posattn.vision.convert.reruns import Subject, outputs_of_choices, subject_of
from posattn.vision.inspect.inspection import inspect_attention

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 4}
MODELS = {
    "vit": ("vit_small_patch14_reg4_dinov2", SMALL),
    "eva": ("vit_small_patch16_rope_224", SMALL),
    "beit": ("beit_base_patch16_224", SMALL),
    "features": ("vit_base_patch16_siglip_224", {**SMALL, "num_classes": 0}),
}


def make(name: str = "vit") -> nn.Module:
    torch.manual_seed(0)
    architecture, options = MODELS[name]
    model = timm.create_model(architecture, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model.double()


IMAGES = torch.randn(40, 3, 16, 16, dtype=torch.double, generator=torch.Generator().manual_seed(1))
BATCHES = list(IMAGES.split(16))


def prepare(name: str = "vit", window: int = 3) -> tuple[Subject, Quality]:
    vit = make(name)
    found = map_statistics(vit, IMAGES[:8], range(3))
    with torch.no_grad():
        quality = Quality(features_of(vit, BATCHES), nearest=5)
    return subject_of(vit, {n: one.mean for n, one in found.items()}, window), quality


def test_blocks_keep_a_forward_of_their_own() -> None:
    """As accelerate's hooks give it to them."""
    subject, _ = prepare()
    blocks, seen = subject.model.blocks, []
    plain = blocks[0].forward

    def own(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return plain(x)

    blocks[0].forward = own
    outputs_of_choices(subject, [{2: {0: TABLE}}], BATCHES[:1])
    assert blocks[0].forward is own
    assert seen == [16]
    assert not any("forward" in vars(block) for block in blocks[1:])


@pytest.mark.parametrize("name", MODELS)
def test_reruns_agree_with_models_that_are_converted_whole(name: str) -> None:
    subject, _ = prepare(name)
    averages = {n: one.mean for n, one in map_statistics(subject.model, IMAGES[:8], range(3)).items()}
    choices = [
        {},
        {0: {1: "table"}},
        {2: {0: "convolution", 1: "relative"}},
        {1: {0: "relative"}, 2: {1: "table"}},
        {0: {0: "convolution", 1: "table"}, 1: {0: "table"}, 2: {0: "relative"}},
    ]
    found = outputs_of_choices(subject, choices, BATCHES)
    for choice, one in zip(choices, found, strict=True):
        model = replace_heads(subject.model, averages, choice, window=3).eval()
        with torch.no_grad():
            expected = outputs(model, IMAGES)
        torch.testing.assert_close(one.features, expected.features, atol=1e-5, rtol=1e-4)
        if expected.logits is not None:
            torch.testing.assert_close(one.logits, expected.logits, atol=1e-5, rtol=1e-4)
    assert not any("forward" in block.__dict__ for block in subject.model.blocks)
    assert not any(block._forward_pre_hooks for block in subject.model.blocks)


def greedy(subject, units, alone, kept, quality, width: int) -> list[list[Unit]]:
    """The order after each step."""
    state, orders = greedy_start(units, alone, "cosine"), []
    while state.known:
        state = greedy_step(state, subject, kept, quality, BATCHES, "cosine", width=width)
        orders.append(state.done)
    return orders


def test_a_base_is_under_every_choice() -> None:
    subject, _ = prepare()
    base = {0: {0: TABLE}, 1: {0: TABLE}}
    found = outputs_of_choices(subject, [{}, {1: {0: TABLE, 1: TABLE}}], BATCHES, base)
    expected = outputs_of_choices(subject, [base, {0: {0: TABLE}, 1: {0: TABLE, 1: TABLE}}], BATCHES)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.features, other.features)


def test_the_model_is_left_as_it_was_after_an_error() -> None:
    subject, _ = prepare()
    layers = [block.attn for block in subject.model.blocks]
    subject.model.train()
    with pytest.raises(KeyError):
        outputs_of_choices(subject, [{0: {0: TABLE}}, {1: {0: "no kind"}}], BATCHES)
    assert [block.attn for block in subject.model.blocks] == layers
    assert subject.model.training
    assert not any("forward" in block.__dict__ for block in subject.model.blocks)


def test_only_later_blocks_run_again() -> None:
    subject, _ = prepare()
    ran = []
    for number, block in enumerate(subject.model.blocks):
        block.mlp.register_forward_hook(lambda *_, n=number: ran.append(n))
    outputs_of_choices(subject, [{2: {0: TABLE}}, {1: {1: TABLE}}], BATCHES[:1])
    assert ran == [0, 1, 2, 2, 1, 2]
    ran.clear()
    outputs_of_choices(subject, [{}, {2: {0: TABLE}}, {0: {}}], BATCHES[:1])
    assert ran == [0, 1, 2, 2]  # what changes nothing is run once


def test_losses_are_paired_means_over_images() -> None:
    subject, quality = prepare()
    units = units_of(subject, "head")
    kept = {(unit.block, head): TABLE for unit in units for head in unit.heads}
    alone = losses_alone(subject, units, kept, quality, BATCHES)
    averages = subject.maps[TABLE]
    for unit, found in zip(units, alone, strict=True):
        model = replace_heads(subject.model, averages, {unit.block: list(unit.heads)}).eval()
        with torch.no_grad():
            cosines = 1 - nn.functional.cosine_similarity(
                outputs(model, IMAGES).features, quality.original.features
            )
        assert found["cosine"].mean == pytest.approx(cosines.mean().item(), abs=1e-5)
        assert found["cosine"].stderr == pytest.approx((cosines.std() / 40**0.5).item(), abs=1e-5)


def test_units() -> None:
    subject, _ = prepare()
    assert units_of(subject, "block") == [Unit(0, (0, 1)), Unit(1, (0, 1)), Unit(2, (0, 1))]
    assert len(units_of(subject, "head")) == 6
    kept = {(b, h): KINDS[h] for b in range(3) for h in range(2)}
    assert choice_of([Unit(1, (0,)), Unit(0, (1,)), Unit(1, (1,))], kept) == {
        0: {1: "relative"},
        1: {0: "table", 1: "relative"},
    }


def test_uniform_heads_are_free_and_come_first() -> None:
    """A model in which one head alone attends by content: every order that measures converts it last."""
    vit = make()
    with torch.no_grad():
        for number, block in enumerate(vit.blocks):
            rows = slice(0, 16) if number != 1 else slice(0, 8)
            block.attn.qkv.weight[rows] = 0
            block.attn.qkv.bias[rows] = 0
    found = map_statistics(vit, IMAGES[:8], range(3))
    subject = subject_of(vit, {n: one.mean for n, one in found.items()}, 3)
    with torch.no_grad():
        quality = Quality(features_of(vit, BATCHES), nearest=5)
    units = units_of(subject, "head")
    kept = {(unit.block, head): TABLE for unit in units for head in unit.heads}
    alone = losses_alone(subject, units, kept, quality, BATCHES)
    measured = greedy(subject, units, alone, kept, quality, width=3)[-1]
    orders = [
        by_cost(units, alone, "cosine"),
        measured,
        by_statistic(units, found, POSITIONALITY),
        by_statistic(units, found, VARIATION),
    ]
    for order in orders:
        assert sorted(order) == sorted(units)
        assert order[-1] == Unit(1, (1,))
        points = curve(subject, order, [0, 5, 6], kept, quality, BATCHES)
        assert [point.heads for point in points] == [0, 5, 6]
        assert points[1].kept["cosine"] == pytest.approx(1, abs=1e-6)
        assert points[2].kept["cosine"] < 0.999
        assert points[0].losses["neighbours"] == Estimate(0.0, 0.0)


def test_greedy_is_not_dearer_than_one_at_a_time() -> None:
    """Measured on the images it was chosen on, with all units tried at each step, up to the last but one."""
    subject, quality = prepare()
    units = units_of(subject, "head")
    kept = {(unit.block, head): TABLE for unit in units for head in unit.heads}
    alone = losses_alone(subject, units, kept, quality, BATCHES)
    steps = greedy(subject, units, alone, kept, quality, width=6)
    assert [len(order) for order in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1][:2] == steps[1]
    first = by_cost(units, alone, "cosine")
    assert steps[0] == first[:1]
    ours, theirs = (curve(subject, order, [2], kept, quality, BATCHES)[0] for order in (steps[-1], first))
    assert ours.losses["cosine"].mean <= theirs.losses["cosine"].mean + 1e-9


def test_greedy_against_models_converted_one_by_one() -> None:
    """All heads that remain are tried at each step; each is a model of its own here."""
    subject, quality = prepare()
    units = units_of(subject, "head")
    kept = {(unit.block, head): TABLE for unit in units for head in unit.heads}
    alone = losses_alone(subject, units, kept, quality, BATCHES)
    averages = {n: one.mean for n, one in map_statistics(subject.model, IMAGES[:8], range(3)).items()}
    with torch.no_grad():
        original = outputs(subject.model, IMAGES).features

    def loss(chosen: list[Unit]) -> float:
        model = replace_heads(subject.model, averages, choice_of(chosen, kept)).eval()
        with torch.no_grad():
            found = outputs(model, IMAGES).features
        return 1 - nn.functional.cosine_similarity(found, original).mean().item()

    order: list[Unit] = []
    while len(order) < len(units):
        order.append(min((u for u in units if u not in order), key=lambda unit: loss([*order, unit])))
    assert greedy(subject, units, alone, kept, quality, width=6)[-1] == order


def test_statistics_against_the_definition() -> None:
    vit = make()
    found = map_statistics(vit, IMAGES, [1])[1]
    each = torch.stack([map_statistics(vit, image[None], [1])[1].mean for image in IMAGES])
    torch.testing.assert_close(found.variation, each.double().var(0).flatten(1).sum(1), atol=1e-6, rtol=1e-4)
    table = inspect_attention(vit, IMAGES)
    expected = table[(table.measure == "positionality") & (table.layer == 1)].value.to_list()
    assert found.positionality.tolist() == pytest.approx(expected, abs=1e-5)
    assert map_statistics(vit, IMAGES[:1], [1])[1].variation.isnan().all()


def test_how_a_head_is_kept() -> None:
    units = [Unit(0, (0,)), Unit(0, (1,)), Unit(1, (0,))]
    alone = {
        "table": [{"cosine": Estimate(mean, 0.001)} for mean in (0.010, 0.010, 0.010)],
        "convolution": [{"cosine": Estimate(mean, 0.001)} for mean in (0.0105, 0.012, 0.020)],
        "relative": [{"cosine": Estimate(mean, 0.001)} for mean in (0.030, 0.0095, 0.030)],
    }
    seconds = {"table": 2.0, "convolution": 1.0, "relative": 3.0}
    found = best_kept(units, alone, seconds, "cosine", tolerance=0.1)
    assert found == {(0, 0): "convolution", (0, 1): "table", (1, 0): "table"}
    found = best_kept(units, alone, seconds, "cosine", tolerance=0.4)
    assert found == {(0, 0): "convolution", (0, 1): "convolution", (1, 0): "table"}
    found = best_kept(units, alone, {**seconds, "table": 0.5}, "cosine", tolerance=9.0)
    assert set(found.values()) == {"table"}


def test_a_random_order_is_a_function_of_the_seed() -> None:
    units = [Unit(block, (0,)) for block in range(9)]
    assert at_random(units, 1) == at_random(units, 1) != at_random(units, 2)
    assert sorted(at_random(units, 3)) == units


def test_budgets() -> None:
    points = [Point(n, n, {}, {"cosine": value}) for n, value in enumerate((1.0, 0.98, 0.9, 0.96, 0.5))]
    assert within_budget(points, "cosine", 0.95).units == 3
    assert within_budget(points, "cosine", 0.99).units == 0
    assert within_budget(points[1:], "cosine", 0.99) is None
    assert counts_of(12, 4) == [0, 3, 6, 9, 12]
    assert counts_of(2, 8) == [0, 1, 2]

"""The cost of an inspection is told with its parts; no time is asserted."""

import timm
import torch

from posattn.bench.inspection import Clocked, cost_section, in_a_process, inspection_cost, peak_memory


def test_costs_are_positive_and_the_ratio_is_theirs() -> None:
    model = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    cost = inspection_cost(model, torch.randn(24, 3, 64, 64), rounds=2)
    assert cost.plain.median > 0
    assert cost.inspect.median > 0
    assert cost.fixed.median > 0
    assert cost.ratio.low <= cost.inspect.high / cost.plain.low * 1.001
    assert cost.whole.median > cost.ratio.low


def test_only_what_comes_after_a_pass_counts_as_fixed() -> None:
    clocked = Clocked(torch.zeros(2, 1, 1, 1))
    next(iter(clocked))  # a first look is no pass
    clocked.stop()
    assert clocked.after == 0
    for _ in range(2):
        list(clocked)
        sum(range(10**5))
    clocked.stop()
    assert clocked.after > 0


def test_the_peak_is_that_of_a_process_of_its_own() -> None:
    held = torch.ones(2**28)  # a gigabyte of this process, which has the same libraries besides
    found = in_a_process(56, rounds=2, depth=1)
    assert found["size"] == 56
    assert 1e8 < found["peak"] < peak_memory() - held.nbytes / 2
    (table,) = cost_section([found]).items
    assert [row[:2] for row in table.rows] == [["56 px", str(found["images"])]]  # type: ignore[union-attr]

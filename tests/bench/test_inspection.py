"""The cost of an inspection is told with its parts; no time is asserted."""

import timm
import torch

from posattn.bench.inspection import inspection_cost


def test_costs_are_positive_and_the_ratio_is_theirs() -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    cost = inspection_cost(model, torch.randn(24, 3, 160, 160), rounds=2)
    assert cost.plain.median > 0
    assert cost.inspect.median > 0
    assert cost.ratio.low <= cost.inspect.high / cost.plain.low * 1.001

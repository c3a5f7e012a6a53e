"""Total variation a row."""

import pytest
import torch

from posattn.structure.distance import total_variation


def test_total_variation_is_half_the_distance_of_each_row() -> None:
    truth = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    other = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert total_variation(other, truth).tolist() == [0.25, 1.0]
    assert total_variation(torch.stack([truth, other]), truth).tolist() == [[0.0, 0.0], [0.25, 1.0]]
    with pytest.raises(ValueError, match=r"maps must be \(..., 2, 3\), got \(3, 3\)"):
        total_variation(torch.eye(3), truth)

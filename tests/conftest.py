"""One thread a worker: the suite runs two workers on two cores."""

import pytest
import torch
from torch import Generator

torch.set_num_threads(1)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)

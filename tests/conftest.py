"""Annotations and shapes are checked in every test; one thread a worker, for the suite runs two workers."""

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Generator

install_import_hook("posattn", "typechecker.check")
torch.set_num_threads(1)
hypothesis.settings.register_profile("same every time", derandomize=True)
hypothesis.settings.load_profile("same every time")


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)

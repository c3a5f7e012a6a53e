"""Annotations and shapes are checked in every test; one thread a worker, for the suite runs two workers."""

import os
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Generator

install_import_hook("posattn", "typechecker.check")
torch.set_num_threads(1)
hypothesis.settings.register_profile("same every time", derandomize=True)
hypothesis.settings.load_profile("same every time")


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """No test cuts the power, and a disk takes milliseconds for each of thousands of fsyncs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked, for tests of many thousand calls: others check the same functions."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """The number of torch's threads is set back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)

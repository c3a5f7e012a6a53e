"""Every kind of scores and every precision."""

import pytest
import torch
from small_vits import DTYPES, KINDS


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"scores": request.param[0], "positional_blocks": request.param[1]}


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param

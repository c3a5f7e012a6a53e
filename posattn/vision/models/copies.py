"""Copies of models."""

import copy
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module) -> Any:
    """A deep copy, of models with computed weights (``torch.nn.utils.prune``), too, which ``deepcopy`` refuses."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    computed = {id(v): v.detach().clone() for v in attributes if isinstance(v, Tensor) and not v.is_leaf}
    return copy.deepcopy(model, computed)  # each is computed again in the next forward pass

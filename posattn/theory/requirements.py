"""What a result needs of a model or a task, checked with one clear line."""

from collections.abc import Sequence
from typing import Any


def overridden(given: Any, kind: type, methods: Sequence[str]) -> str | None:
    """The first of ``methods`` of ``kind`` that ``given`` or its class overrides; None if it overrides none."""
    for method in methods:
        if getattr(getattr(given, method), "__func__", None) is not getattr(kind, method):
            return method
    return None


def refuse_overrides(what: str, given: Any, kind: type, methods: Sequence[str], instead: str = "") -> None:
    """Raise TypeError if ``given`` is not a ``kind`` or overrides one of ``methods``, on which ``what`` depends."""
    name = type(given).__name__
    if not isinstance(given, kind):
        raise TypeError(f"{what} needs a {kind.__name__}, got {name}{instead}")
    if method := overridden(given, kind, methods):
        raise TypeError(f"{what} does not hold for {name}, which overrides {method}{instead}")


def one_feature(what: str, task: Any) -> None:
    """Raise ValueError if the task has several features, as one of several classes does."""
    if task.feature.ndim != 1:
        raise ValueError(f"{what} needs a task of one feature, got {task.feature.shape[-1]}")


def check_shapes(model: Any, task: Any) -> None:
    """Raise ValueError if model and task differ in D or d."""
    shape = (task.partition.num_patches, task.dim)
    if (model.num_patches, model.dim) != shape:
        raise ValueError(f"the task has (D, d) = {shape}, the model {(model.num_patches, model.dim)}")

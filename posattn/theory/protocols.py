"""Protocols of a task and a model: all that the functions of ``posattn.theory`` need."""

from typing import Any, Protocol, runtime_checkable

from torch import Generator, Tensor

from posattn.shapes import Maps, Patches
from posattn.structure.partition import Cover


@runtime_checkable
class Labelled(Protocol):
    """A batch to train on or to score."""

    @property
    def patches(self) -> Patches:
        """(n, D, d)."""

    @property
    def labels(self) -> Tensor:
        """(n,) ±1, or classes 0..K-1."""


@runtime_checkable
class Task(Protocol):
    """A distribution of labelled patches with sets of patches; with a ``feature``, cos(v, w*) is measured too."""

    @property
    def partition(self) -> Cover:
        """The sets that a model may find."""

    def sample(self, n: int, *, generator: Generator | None = None) -> Any:
        """``n`` fresh samples, ``Labelled``."""

    def label(self, patches: Patches) -> Tensor:
        """(n,) the true labels of given patches."""


@runtime_checkable
class Model(Protocol):
    """A model whose attention depends on positions alone; ``held_scores``, if present, gives its scores A."""

    def attention(self) -> Maps:
        """(..., D, D) the attention map S of every head."""

    def __call__(self, patches: Patches, /) -> Tensor:
        """(n,) logits, or (n, K) for K classes."""

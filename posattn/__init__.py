"""Spatial structure in Vision Transformers: positional attention, its theory, its models, its measures.

Importing the package registers the ``vit_posattn_*`` models with timm. Heavy modules are loaded on first
use: the names below load their modules at first access, and the models are registered when timm is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from posattn.structure.association import patch_association
    from posattn.structure.partition import Partition
    from posattn.theory import solutions
    from posattn.theory.flow import PopulationFlow
    from posattn.theory.simplified import SimplifiedViT
    from posattn.theory.task import StructuredTask
    from posattn.vision.convert.maps import to_positional
    from posattn.vision.convert.saving import load, save
    from posattn.vision.inspect.compare import compare
    from posattn.vision.inspect.inspection import inspect_attention, inspect_model
    from posattn.vision.models.attention import PositionalAttention
    from posattn.vision.models.freeze import freeze_attention

_HOMES = {
    "Partition": "structure.partition",
    "patch_association": "structure.association",
    "StructuredTask": "theory.task",
    "SimplifiedViT": "theory.simplified",
    "PopulationFlow": "theory.flow",
    "PositionalAttention": "vision.models.attention",
    "freeze_attention": "vision.models.freeze",
    "load": "vision.convert.saving",
    "save": "vision.convert.saving",
    "to_positional": "vision.convert.maps",
    "inspect_attention": "vision.inspect.inspection",
    "inspect_model": "vision.inspect.inspection",
    "compare": "vision.inspect.compare",
}

__all__ = [
    "Partition",
    "PopulationFlow",
    "PositionalAttention",
    "SimplifiedViT",
    "StructuredTask",
    "compare",
    "freeze_attention",
    "inspect_attention",
    "inspect_model",
    "load",
    "patch_association",
    "save",
    "solutions",
    "to_positional",
]


def __getattr__(name: str) -> Any:
    if name == "solutions":
        return importlib.import_module("posattn.theory.solutions")
    if name in _HOMES:
        return getattr(importlib.import_module(f"posattn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'posattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@wrapt.when_imported("timm")
def _register_models(_: Any) -> None:
    importlib.import_module("posattn.vision.models")
    importlib.import_module("posattn.vision.convert.entry")

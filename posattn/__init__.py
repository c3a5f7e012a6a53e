"""Spatial structure in Vision Transformers: positional attention, its theory, its models, its measures.

Importing the package registers the ``vit_posattn_*`` models with timm.
"""

from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory import solutions
from posattn.theory.flow import PopulationFlow
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.vision.convert.maps import to_positional
from posattn.vision.inspect.inspection import inspect_attention
from posattn.vision.models import vision_transformer_posattn
from posattn.vision.models.attention import PositionalAttention
from posattn.vision.models.freeze import freeze_attention

__all__ = [
    "Partition",
    "PopulationFlow",
    "PositionalAttention",
    "SimplifiedViT",
    "StructuredTask",
    "freeze_attention",
    "inspect_attention",
    "patch_association",
    "solutions",
    "to_positional",
    "vision_transformer_posattn",
]

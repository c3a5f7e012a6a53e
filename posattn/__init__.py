"""Spatial structure in Vision Transformers: positional attention, its theory, its models, its measures.

Importing the package registers the ``vit_posattn_*`` models with timm.
"""

from posattn.data.structured import Partition, StructuredTask
from posattn.learning.flow import PopulationFlow
from posattn.measure.association import patch_association
from posattn.measure.attention import inspect_attention
from posattn.models import solutions, vision_transformer_posattn
from posattn.models.attention import PositionalAttention
from posattn.models.convert import to_positional
from posattn.models.freeze import freeze_attention
from posattn.models.simplified import SimplifiedViT

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

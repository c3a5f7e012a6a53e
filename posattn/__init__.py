"""Spatial structure in Vision Transformers: positional attention, its theory, its models, its measures.

Importing the package registers the ``vit_posattn_*`` models with timm.
"""

from posattn.data.structured import Partition, StructuredTask
from posattn.measure.association import patch_association
from posattn.models import solutions
from posattn.models.simplified import SimplifiedViT

__all__ = ["Partition", "SimplifiedViT", "StructuredTask", "patch_association", "solutions"]

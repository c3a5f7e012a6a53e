"""Full-size ViTs with positional attention; importing the folder registers them with timm."""

import posattn.vision.models.vision_transformer_posattn  # noqa: F401

"""timm's entry point for converted models, registered when timm is imported."""

from typing import Any

from timm.models import register_model
from torch import nn


@register_model
def converted_vit(pretrained: bool = False, **options: Any) -> nn.Module:
    """A model saved by ``posattn.save``: its ``config.json`` says what was converted, and which heads are which."""
    from posattn.vision.convert.saving import build  # only when it is used, for it needs much

    return build(pretrained, **options)

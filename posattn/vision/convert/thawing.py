"""The maps of a converted model as parameters that train, and frozen again."""

from typing import Any

from torch import nn

from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.config import RecoveryConfig
from posattn.vision.convert.heads import log_table
from posattn.vision.models.attention import FrozenMaps, PositionalAttention


def converted_layers(model: nn.Module) -> list[Any]:
    """The attention layers with constant maps. Raises ValueError if there are none."""
    layers = [m for m in model.modules() if isinstance(m, ConvertedAttention | PositionalAttention)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no converted heads to train; see to_positional")
    return layers


def map_parameters(layer: Any) -> list[nn.Parameter]:
    """The parameters of a layer's maps."""
    return list((layer.groups if isinstance(layer, ConvertedAttention) else layer.maps).parameters())


def thaw(model: nn.Module) -> None:
    """Make the maps trainable, in place: a table as the logarithms of its entries, the others as they are kept."""
    for layer in converted_layers(model):
        if isinstance(layer, ConvertedAttention):
            layer.thaw()
        elif isinstance(layer.maps, FrozenMaps):
            layer.attach(log_table(layer.maps.maps))


def freeze_maps(model: nn.Module) -> None:
    """The inverse, in place."""
    for layer in converted_layers(model):
        layer.reparameterize()


def groups_of(model: nn.Module, config: RecoveryConfig) -> list[dict[str, Any]]:
    """The weights, and the maps at a learning rate of their own."""
    maps = {id(p) for layer in converted_layers(model) for p in map_parameters(layer)}
    parts = [
        [p for p in model.parameters() if p.requires_grad and (id(p) in maps) == own] for own in (False, True)
    ]
    scales = (1.0, config.maps_lr / config.lr)
    return [{"params": part, "lr_scale": scale} for part, scale in zip(parts, scales, strict=True) if part]

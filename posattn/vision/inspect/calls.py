"""What an attention layer hands to PyTorch in a forward pass, as maps that are not computed yet."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posattn.vision.inspect.adapters.layer import AttentionLayer
from posattn.vision.inspect.lazy import FromMaps, FromQueries, FromScores, Joined, LazyMaps
from posattn.vision.models.attention import PositionalAttention

Call = LazyMaps | str  # the maps of a softmax or of fused attention, or why there are none
CHANGED = "it changes its maps after their softmax"
PRODUCTS = (torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.bmm)


class Softmax(NamedTuple):
    """The maps that a softmax gave, until values are mixed by them."""

    maps: Tensor
    version: int | None  # in-place changes of them so far; None where they are not counted

    def changed_in(self, operands: Any) -> bool | None:
        """Whether these operands of a product hold the maps, changed; None if they do not hold them."""
        own = [each for each in operands if isinstance(each, Tensor) and self.fits(each)]
        if not own:
            return None
        return version_of(self.maps) != self.version or not any(map(self.equals, own))

    def fits(self, operand: Tensor) -> bool:
        """Whether a tensor has the shape of the maps, or of their transposes, in whatever leading axes."""
        sides = (tuple(operand.shape[-2:]), tuple(operand.mT.shape[-2:])) if operand.ndim > 2 else ()
        return operand.numel() == self.maps.numel() and tuple(self.maps.shape[-2:]) in sides

    def equals(self, operand: Tensor) -> bool:
        """Whether a tensor is the maps or their transposes, up to its type."""
        if operand.data_ptr() == self.maps.data_ptr():
            return True
        ours = self.maps.to(operand.dtype)
        return any(
            side.shape[-2:] == ours.shape[-2:] and torch.equal(side, ours.reshape(side.shape))
            for side in (operand, operand.mT)
        )


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version


def fused(query: Tensor, *args: Any, **kwargs: Any) -> Call:
    """The maps of a call of fused attention, or why there are none."""
    if query.ndim not in (3, 4):
        return f"its queries have {query.ndim} axes, {tuple(query.shape)}"
    return FromQueries(query, *args, **kwargs)


def written_out(input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Call:
    """The maps of a softmax, or why it has none."""
    scores = input  # by its name in PyTorch
    if dim not in (-1, scores.ndim - 1):
        return f"its softmax of {tuple(scores.shape)} is over axis {dim}, not over the keys"
    if scores.ndim not in (3, 4):
        return f"its softmax is of {tuple(scores.shape)}"
    return FromScores(scores)


def maps_of(calls: list[Call], module: nn.Module, layer: AttentionLayer, images: int) -> LazyMaps:
    """The maps of all heads of a layer, from its calls on so many images.

    Raises TypeError if they are not what its adapter expects, or are of groups of tokens that have no known place.
    """
    parts: list[LazyMaps] = []
    if hasattr(module, "attention_maps"):
        parts = [FromMaps(constant_maps(module, layer)[None])]
        # the softmax of constant maps is none of content-based heads
        calls = [call for call in calls if isinstance(call, FromQueries)]
    # None in a layer that is converted whole
    has_content = getattr(module, "content", module) is not None
    if has_content and not isinstance(module, PositionalAttention):
        parts += chosen_calls(calls, layer)
    order: Any = getattr(module, "order", None)  # of the heads of a converted layer
    maps = parts[0] if len(parts) == 1 and order is None else Joined(parts, order)
    groups = maps.shape[0] / images
    if groups != 1 and not (layer.windowed and groups.is_integer()) and not hasattr(module, "attention_maps"):
        raise layer.refuse(
            f"it attends within groups of {maps.shape[2]} tokens whose places are not known "
            f"({groups:g} groups per image)"
        )
    return maps


def constant_maps(module: Any, layer: AttentionLayer) -> Tensor:
    """The maps (h, N, N) of positional heads. Raises TypeError if a hook on the dropout of maps changes them."""
    maps: Tensor = module.attention_maps()
    if isinstance(module, PositionalAttention) and not torch.equal(module.attn_drop(maps.clone()), maps):
        raise layer.refuse(CHANGED)
    return maps


def chosen_calls(calls: list[Call], layer: AttentionLayer) -> list[LazyMaps]:
    """The softmaxes of one forward pass of a layer; Raises TypeError if they are not what its adapter expects."""
    known = layer.mixes_heads or layer.maps_per_head > 1
    if reasons := [call for call in calls if isinstance(call, str) and not (call == CHANGED and known)]:
        raise layer.refuse(reasons[0])
    maps = [unfolded(call, layer) for call in calls if isinstance(call, LazyMaps)]
    if len(maps) not in (1, layer.maps_per_head):
        raise layer.refuse(f"it computes {len(maps)} softmaxes, not {layer.maps_per_head}")
    return maps


def unfolded(maps: LazyMaps, layer: AttentionLayer) -> LazyMaps:
    """Maps (n·h, Q, K), as some models fold them, with their axis of heads. Raises TypeError if they have no such."""
    folded = maps.shape[0] if len(maps.shape) == 3 else 0
    if folded % layer.num_heads:
        raise layer.refuse(
            f"its softmax is of {tuple(maps.shape)}, which are not the maps of {layer.num_heads} heads"
        )
    if isinstance(maps, FromScores) and maps.held.ndim == 3:
        return FromScores(maps.held.unflatten(0, (-1, layer.num_heads)))
    if isinstance(maps, FromQueries) and maps.query.ndim == 3:
        return maps.unfold(layer.num_heads)
    return maps


def check_tokens(maps: LazyMaps, inputs: Any, layer: AttentionLayer) -> None:
    """Raise TypeError if a layer attends neither from nor to the tokens of its input, say among channels."""
    shape = next((tuple(value.shape) for value in inputs if isinstance(value, Tensor)), ())
    numbers = {3: shape[:2], 4: (shape[1] * shape[2], shape[2] * shape[3]) if len(shape) == 4 else ()}
    known = numbers.get(len(shape), ())
    if known and not layer.windowed and not layer.pooled and not set(maps.shape[2:]) & set(known):
        raise layer.refuse(f"it attends from {maps.shape[2]} to {maps.shape[3]} places, its input is {shape}")

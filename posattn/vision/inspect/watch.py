"""The attention maps of a timm ViT as it computes, fused attention left on.

Fused attention keeps no maps. They are recomputed from the Q, K, scale and mask that each attention layer makes of
its own input and hands to PyTorch's ``scaled_dot_product_attention``: after its norms, rotary and relative positions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import AttentionPoolLatent, RelPosBias, RelPosMlp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from posattn.vision.models.attention import PositionalAttention

BATCH = 64
NO_LAYERS = (AttentionPoolLatent, RelPosBias, RelPosMlp)  # they have heads, but mix no tokens
See = Callable[[Any, Tensor, Tensor], None]  # key, maps, batch


def attention_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The attention layers of a model by path, in its order.

    Raises:
        ValueError: there are none.
    """
    heads = {path: module for path, module in model.named_modules() if hasattr(module, "num_heads")}
    outermost = {
        path: module
        for path, module in heads.items()
        if not any(path.startswith(f"{other}.") for other in heads) and not isinstance(module, NO_LAYERS)
    }
    if not outermost:
        raise ValueError(f"{type(model).__name__} has no attention: none of its modules has num_heads")
    return outermost


def watch_attention(
    model: nn.Module, images: Tensor | Iterable[Any], layers: Mapping[Any, nn.Module], see: See
) -> int:
    """Run a model over images batch by batch; ``see(key, maps, batch)`` is handed the maps of each layer.

    Maps are (n, h, N, N) in float32 or better, or (1, h, N, N) where they do not depend on the image. The model
    is in evaluation mode and as it was afterwards.

    Args:
        model: any timm ViT.
        images: (n, c, H, W), or an iterable of such batches, or of tuples that begin with one.
        layers: the attention layers by the key they are seen under.
        see: called in every forward of every layer.

    Returns:
        The number of images.

    Raises:
        TypeError: a layer's attention is not from each token to each (its key is named).
        ValueError: the images are not (n, c, H, W), or not of the model's size.
    """
    like = next(model.parameters())
    with evaluating(model), torch.no_grad(), hooked(layers, see) as watch:
        count = 0
        for batch in batches(images):
            watch.batch = batch.to(like)
            check_size(model, watch.batch)
            with watch:
                getattr(model, "forward_features", model)(watch.batch)
            count += len(batch)
    return count


class Watch(TorchFunctionMode):
    """Notes what reaches fused attention, and hands on the maps when a layer's forward ends."""

    batch: Tensor

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            self.calls.append((args, kwargs or {}))
        return function(*args, **(kwargs or {}))

    def begin(self, layer: nn.Module, inputs: Any) -> None:
        """Before a layer's forward."""
        self.calls.clear()

    def end(self, layer: nn.Module, inputs: Any, output: Any, key: Any) -> None:
        """After it: the maps of its positional heads, then of its content-based ones."""
        parts = [constant_maps(layer)] if hasattr(layer, "attention_maps") else []
        if not isinstance(layer, PositionalAttention):
            parts.append(self._of_content(layer, key))
        shared = [part.expand(parts[-1].shape[0], -1, -1, -1) for part in parts]
        self.see(key, shared[0] if len(shared) == 1 else torch.cat(shared, 1), self.batch)

    def _of_content(self, layer: nn.Module, key: Any) -> Tensor:
        where = f"{key} ({type(layer).__name__})"
        if len(self.calls) != 1:
            raise TypeError(
                f"{where} is not supported: it calls scaled_dot_product_attention {len(self.calls)} times, not once"
            )
        args, kwargs = self.calls.pop()
        query, key_tensor = args[:2]
        if query.ndim != 4 or query.shape[0] != len(self.batch):
            raise TypeError(
                f"{where} is not supported: it attends within windows, with queries {tuple(query.shape)} "
                f"for {len(self.batch)} images"
            )
        if query.shape[2] != key_tensor.shape[2]:
            raise TypeError(
                f"{where} is not supported: its {query.shape[2]} queries attend to {key_tensor.shape[2]} keys"
            )
        return attention_map(*args, **kwargs)


def constant_maps(layer: Any) -> Float[Tensor, "1 h N N"]:
    """The maps of a layer's positional heads, in float32 or better."""
    maps = layer.attention_maps()
    return maps[None].to(torch.promote_types(maps.dtype, torch.float32))


def attention_map(
    query: Float[Tensor, "n h N c"],
    key: Float[Tensor, "n g N c"],
    value: Any = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "n h N N"]:
    """What ``scaled_dot_product_attention`` of the same arguments mixes the values by: softmax(Q Kᵀ·scale + mask).

    In float32 or better, whatever the type of Q and K.
    """
    kind = torch.promote_types(query.dtype, torch.float32)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    with torch.autocast(query.device.type, enabled=False):
        scores = (query.to(kind) * scale) @ key.to(kind).mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


@contextmanager
def hooked(layers: Mapping[Any, nn.Module], see: See) -> Iterator[Watch]:
    """A watch over the layers, all of them fused while it lasts."""
    watch = Watch(see)
    with ExitStack() as stack:
        for key, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(watch.begin).remove)
            stack.callback(layer.register_forward_hook(partial(watch.end, key=key)).remove)
            if getattr(layer, "fused_attn", True) is False:
                layer.fused_attn = True  # type: ignore[assignment]
                stack.callback(setattr, layer, "fused_attn", False)
        yield watch


def batches(images: Tensor | Iterable[Any]) -> Iterator[Tensor]:
    """Batches of images, from one tensor or from a stream of batches."""
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(f"images must be (n, c, H, W), got {tuple(images.shape)}")
        yield from (batch for batch in images.split(BATCH) if len(batch))
    else:
        for batch in images:
            yield from batches(batch[0] if isinstance(batch, tuple | list) else batch)


def check_size(model: Any, batch: Tensor) -> None:
    """ValueError where images are not of the model's size."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size and getattr(embed, "strict_img_size", True) and tuple(batch.shape[-2:]) != tuple(size):
        wanted, got = ("x".join(map(str, pair)) for pair in (size, batch.shape[-2:]))
        raise ValueError(f"images must be {wanted} for this {type(model).__name__}, got {got}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode while it lasts, then every module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

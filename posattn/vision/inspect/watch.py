"""The attention maps of a vision model as it computes, fused attention left on.

Fused attention keeps no maps. They are recomputed from the Q, K, scale and mask that each attention layer makes of
its own input and hands to PyTorch's ``scaled_dot_product_attention``: after its norms, rotary and relative positions.
Attention that is written out is read at its softmax, ``nn.MultiheadAttention`` where its heads are computed. How maps
are read from these calls is in ``calls``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from posattn.vision.grid import Layout, keep_grid
from posattn.vision.inspect.adapters.find import find_attention, unwrap
from posattn.vision.inspect.adapters.layer import AttentionLayer
from posattn.vision.inspect.batches import batches
from posattn.vision.inspect.calls import (
    CHANGED,
    PRODUCTS,
    Call,
    Softmax,
    check_tokens,
    fused,
    maps_of,
    version_of,
    written_out,
)
from posattn.vision.inspect.lazy import FromMaps, LazyMaps, attention_of_mha, of_windows
from posattn.vision.modes import evaluating, uncompiled

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
See = Callable[[Any, Tensor, Tensor], None]  # key, maps, batch
SeeLazily = Callable[[Any, LazyMaps, Layout, Tensor], None]  # key, maps, layout, batch
SeeOutput = Callable[[Any, Any, Layout, Tensor], None]  # key, output of the block around, layout, batch
Refuse = Callable[[Any, TypeError], None]  # key, why


def raise_it(key: Any, error: TypeError) -> None:
    """Let an error out."""
    raise error


def watch_attention(
    model: nn.Module, images: Tensor | Iterable[Any], layers: Mapping[Any, nn.Module], see: See
) -> int:
    """Run a model over images batch by batch; ``see(key, maps, batch)`` gets the maps of each layer.

    Maps are (n, h, Q, K) in float32 or better, or (1, h, Q, K) where they do not depend on the image; of
    windowed attention, (n·windows, h, Q, K) of the windows without padding. The model is in evaluation mode, and as
    it was afterwards.

    Args:
        model: see ``find_attention``.
        images: see ``posattn.vision.inspect.batches.batches``.
        layers: the attention modules, by the key that they are seen under.
        see: called in every forward pass of every layer, with the batch as it is given.

    Returns:
        The number of images.

    Raises:
        TypeError: a layer's attention is not from each token to each (its path is named).
        ValueError: the images are not (n, c, H, W), or not of the model's size, or of several grids.
    """
    tower = find_attention(model)
    known = {id(layer.module): layer for layer in tower.layers}
    reasons = {
        id(model.get_submodule(path)): f"{path}: {reason}" for path, reason in tower.unobserved.items()
    }
    if unknown := [module for module in layers.values() if id(module) not in known]:
        raise TypeError(
            reasons.get(id(unknown[0]), f"{type(unknown[0]).__name__} is no attention layer of the model")
        )
    chosen = {key: known[id(module)] for key, module in layers.items()}
    return observe(
        model, tower.run, images, chosen, lambda key, maps, layout, batch: see(key, maps.whole(), batch)
    )


def observe(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    images: Tensor | Iterable[Any],
    layers: Mapping[Any, AttentionLayer],
    see: SeeLazily,
    batch_size: int = 64,
    refuse: Refuse = raise_it,
    see_output: SeeOutput | None = None,
) -> int:
    """``watch_attention`` of the layers of an adapter, with maps that are not computed yet.

    ``refuse`` gets the TypeError of a layer that cannot be observed, ``see_output`` what the block around a layer
    gives. Nothing is compiled, and no surrounding autocast applies: what is measured is computed in the model's own
    type.
    """
    inner, _ = unwrap(model)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    count = 0
    with (
        evaluating(inner),
        torch.no_grad(),
        uncompiled(inner),
        hooked(layers, Watch(see, refuse, see_output)) as watch,
    ):
        for batch in batches(images, batch_size):
            watch.given, watch.batch, watch.once = batch, batch.to(like), set()
            watch.image = (batch.shape[2], batch.shape[3])
            with torch.autocast(like.device.type, enabled=False), watch:
                run(watch.batch)
            count += len(batch)
    return count


class Watch(TorchFunctionMode):
    """Notes what reaches a softmax or fused attention, and hands on the maps when a layer's forward ends."""

    given: Tensor  # the batch before it takes the model's type and device
    batch: Tensor
    image: tuple[int, int]
    once: set[Any]  # the layers that ran on this batch

    def __init__(self, see: SeeLazily, refuse: Refuse, see_output: SeeOutput | None = None) -> None:
        super().__init__()
        self.see, self.refuse, self.see_output = see, refuse, see_output
        self.calls: list[Call] | None = None  # None outside of attention layers
        self.softmax: Softmax | None = None  # the last one whose maps have mixed nothing yet
        self.layouts: dict[Any, Layout] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.calls is None:
            return function(*args, **kwargs)
        if function is F.multi_head_attention_forward:
            output, maps = attention_of_mha(*args, **kwargs)
            self.calls.append(FromMaps(maps.detach()))
            return output, maps if kwargs.get("need_weights", True) else None
        if function is F.scaled_dot_product_attention:
            self.calls.append(fused(*args, **kwargs))
        elif function in SOFTMAX:
            self.calls.append(written_out(*args, **kwargs))
            maps = function(*args, **kwargs)
            self.softmax = Softmax(maps, version_of(maps))
            return maps
        elif function in PRODUCTS and self.softmax and (changed := self.softmax.changed_in(args)) is not None:
            self.softmax = None
            self.calls += [CHANGED] * changed
        return function(*args, **kwargs)

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before the image enters: its size, which a wrapper may have changed, must be the model's."""
        images = (
            value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim == 4
        )
        image = next(images, self.batch)
        self.image = (image.shape[2], image.shape[3])
        check_size(module, self.image)

    def begin(self, module: nn.Module, inputs: Any) -> None:
        """Before a layer's forward."""
        self.calls, self.softmax = [], None

    def end(self, module: nn.Module, inputs: Any, output: Any, key: Any, layer: AttentionLayer) -> None:
        """After it: the maps of its positional heads, then of its content-based ones."""
        calls, self.calls, self.softmax = self.calls or [], None, None
        try:
            if key in self.once:
                raise layer.refuse("it runs several times in a forward pass")
            self.once.add(key)
            maps = maps_of(calls, module, layer, len(self.batch))
            check_tokens(maps, inputs, layer)
            windows = maps.expand(len(self.batch))
            layout = layer.layout(self.image, windows, *maps.shape[2:])
            if layer.windowed:
                maps = of_windows(maps, layer.whole_windows(self.image, windows), windows)
        except TypeError as error:
            self.refuse(key, error)
            return
        keep_grid(self.layouts, key, layout)
        self.see(key, maps, layout, self.given)

    def after(self, module: nn.Module, inputs: Any, output: Any, key: Any) -> None:
        """After the block around a layer that was seen."""
        if self.see_output is not None and key in self.layouts:
            self.see_output(key, output, self.layouts[key], self.given)


@contextmanager
def hooked(layers: Mapping[Any, AttentionLayer], watch: Watch) -> Iterator[Watch]:
    """A watch over the layers while it lasts; ``nn.MultiheadAttention`` takes its plain path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        for key, layer in layers.items():
            module = layer.module
            stack.callback(module.register_forward_pre_hook(watch.begin).remove)
            stack.callback(module.register_forward_hook(partial(watch.end, key=key, layer=layer)).remove)
            if watch.see_output is not None and layer.block is not None:
                stack.callback(layer.block.register_forward_hook(partial(watch.after, key=key)).remove)
        for entry in {id(layer.entry): layer.entry for layer in layers.values() if layer.entry}.values():
            stack.callback(entry.register_forward_pre_hook(watch.enter, with_kwargs=True).remove)
        yield watch


def check_size(embed: Any, image: tuple[int, int]) -> None:
    """Raise ValueError if an image is not of the size that a patch embedding is made for."""
    size = getattr(embed, "img_size", None)
    if size and getattr(embed, "strict_img_size", True) and image != tuple(size):
        wanted, got = ("x".join(map(str, pair)) for pair in (size, image))
        raise ValueError(f"images must be {wanted} for this model, got {got}")

"""Attention maps computed block by block, so that a layer's maps need not be in memory at once."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ENTRIES = {"cpu": 2**20, "cuda": 2**25}  # of a block: what the cache holds, or what keeps a GPU busy


class LazyMaps:
    """The maps (n, h, Q, K) of a layer on a batch: a softmax over keys of what subclasses compute.

    In float32 or better, whatever the type of the model.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    device: torch.device

    def scores(self, images: slice, rows: slice) -> Tensor:
        """The argument of the softmax, for some images and queries, in memory of its own."""
        raise NotImplementedError

    def finite(self) -> bool:
        """Whether no score is infinite or undefined, but for what is masked."""
        raise NotImplementedError

    def block(self, images: slice, rows: slice) -> tuple[Float[Tensor, "b h q K"], Float[Tensor, "b h q"]]:
        """Maps of some images and queries, and the entropy of each row in nats."""
        scores = self.scores(images, rows)
        maps = scores.softmax(-1)
        # -Σ p log p = log Σ exp(s - max) - Σ p (s - max): no logarithm of each entry
        scores = scores.sub_(scores.amax(-1, keepdim=True))
        if self.masks:
            scores = scores.clamp_(min=torch.finfo(scores.dtype).min)
        entropy = -maps.amax(-1).log() - torch.linalg.vecdot(maps, scores)
        return maps, entropy

    masks = False  # whether scores can be minus infinity

    def select(self, images: slice) -> Float[Tensor, "b h Q K"]:
        """The maps of some images."""
        return self.scores(images, slice(None)).softmax(-1)

    def whole(self) -> Float[Tensor, "n h Q K"]:
        """All maps at once."""
        return self.select(slice(None))

    def expand(self, images: int) -> int:
        """How many maps there are of each image: windows."""
        return max(1, self.shape[0] // images)


class FromQueries(LazyMaps):
    """The maps of ``scaled_dot_product_attention`` with the same arguments: softmax(Q Kᵀ·scale + mask)."""

    def __init__(
        self,
        query: Float[Tensor, "*n Q c"],
        key: Float[Tensor, "*g K c"],
        value: Tensor | None = None,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        self.dtype, self.device = torch.promote_types(query.dtype, torch.float32), query.device
        self.query, self.scale = query, query.shape[-1] ** -0.5 if scale is None else scale
        self.key = key.repeat_interleave(query.shape[1] // key.shape[1], 1) if enable_gqa else key
        self.shape = (*query.shape[:-1], key.shape[-2])  # type: ignore[assignment]
        if is_causal:
            attn_mask = torch.ones(self.shape[-2:], dtype=torch.bool, device=self.device).tril()
        self.given = attn_mask
        self.mask = None if attn_mask is None else attn_mask.expand(self.shape)
        self.masks = self.mask is not None

    def unfold(self, num_heads: int) -> "FromQueries":
        """The maps of queries (n·h, Q, c), with their axis of heads."""
        fold = (-1, num_heads)
        query, key = self.query.unflatten(0, fold), self.key.unflatten(0, fold)
        mask = None if self.mask is None else self.mask.unflatten(0, fold)
        return FromQueries(query, key, attn_mask=mask, scale=self.scale)

    def scores(self, images: slice, rows: slice) -> Tensor:
        query, key = self.query[images, :, rows].to(self.dtype), self.key[images].to(self.dtype)
        scores = (query * self.scale) @ key.mT
        if self.mask is None:
            return scores
        mask = self.mask[images, :, rows]
        return scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)

    def finite(self) -> bool:
        return bool(self.query.isfinite().all() and self.key.isfinite().all() and self._mask_is_finite())

    def _mask_is_finite(self) -> bool:
        """Whether the mask has no NaN or +inf, and leaves each query a key."""
        if self.given is None:
            return True
        row = self.given.any(-1) if self.given.dtype == torch.bool else self.given.amax(-1).isfinite()
        return bool(row.all())


class FromScores(LazyMaps):
    """The softmax that a layer computes by itself, from its argument."""

    masks = True

    def __init__(self, scores: Tensor) -> None:
        self.held = scores
        self.shape = tuple(scores.shape)  # type: ignore[assignment]
        self.dtype, self.device = torch.promote_types(scores.dtype, torch.float32), scores.device

    def scores(self, images: slice, rows: slice) -> Tensor:
        return self.held[images, :, rows].to(self.dtype, copy=True)

    def finite(self) -> bool:
        return bool(self.held.amax(-1).isfinite().all())  # NaN and +inf; a row of -inf has no map


class FromMaps(LazyMaps):
    """Maps that exist already; (1, h, Q, K) where they do not depend on the image."""

    def __init__(self, maps: Float[Tensor, "n h Q K"]) -> None:
        self.maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        self.shape = tuple(maps.shape)  # type: ignore[assignment]
        self.dtype, self.device = self.maps.dtype, maps.device

    def block(self, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
        maps = self.maps[images, :, rows].clone()
        return maps, torch.special.entr(maps).sum(-1)

    def select(self, images: slice) -> Tensor:
        return self.maps[images]

    def finite(self) -> bool:
        return bool(self.maps.isfinite().all())


class Joined(LazyMaps):
    """The heads of several parts one after the other; parts of one map serve all images.

    ``order`` has the numbers that the heads are to have, where these are others.
    """

    def __init__(self, parts: list[LazyMaps], order: list[int] | None = None) -> None:
        self.parts = parts
        self.places: Any = slice(None) if order is None else torch.tensor(order).argsort()
        images = max(part.shape[0] for part in parts)
        self.shape = (images, sum(part.shape[1] for part in parts), *parts[0].shape[2:])
        self.dtype, self.device = parts[0].dtype, parts[0].device

    def block(self, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
        found = [part.block(images if part.shape[0] > 1 else slice(None), rows) for part in self.parts]
        number = max(maps.shape[0] for maps, _ in found)
        maps, entropy = zip(
            *((m.expand(number, -1, -1, -1), e.expand(number, -1, -1)) for m, e in found), strict=True
        )
        return torch.cat(maps, 1)[:, self.places], torch.cat(entropy, 1)[:, self.places]

    def select(self, images: slice) -> Tensor:
        found = [part.select(images if part.shape[0] > 1 else slice(None)) for part in self.parts]
        number = max(len(maps) for maps in found)
        return torch.cat([maps.expand(number, -1, -1, -1) for maps in found], 1)[:, self.places]

    def finite(self) -> bool:
        return all(part.finite() for part in self.parts)


class Chosen(LazyMaps):
    """Some of the maps of a layer, by their places among them."""

    def __init__(self, maps: LazyMaps, places: list[int]) -> None:
        self.maps, self.places = maps, places
        self.shape = (len(places), *maps.shape[1:])
        self.dtype, self.device = maps.dtype, maps.device

    def block(self, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
        found = [self.maps.block(slice(place, place + 1), rows) for place in self.places[images]]
        return torch.cat([maps for maps, _ in found]), torch.cat([entropy for _, entropy in found])

    def select(self, images: slice) -> Tensor:
        return torch.cat([self.maps.select(slice(place, place + 1)) for place in self.places[images]])

    def finite(self) -> bool:
        return self.maps.finite()


def of_windows(maps: LazyMaps, chosen: list[int], windows: int) -> LazyMaps:
    """The maps of the chosen ones of an image's windows, image by image."""
    if len(chosen) == windows:
        return maps
    images = maps.shape[0] // windows
    return Chosen(maps, [image * windows + window for image in range(images) for window in chosen])


def blocks(maps: LazyMaps) -> list[tuple[slice, slice]]:
    """The images and rows of each block, small enough for the cache."""
    n, h, Q, K = maps.shape
    entries = ENTRIES.get(maps.device.type, ENTRIES["cpu"])
    images = max(1, entries // (h * Q * K))
    rows = Q if images > 1 else max(1, min(Q, entries // (h * K)))
    return [
        (slice(i, min(i + images, n)), slice(r, min(r + rows, Q)))
        for i in range(0, n, images)
        for r in range(0, Q, rows)
    ]


def attention_of_mha(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """``F.multi_head_attention_forward`` that also returns the maps of each head."""
    told = {**kwargs, "need_weights": True, "average_attn_weights": False}
    output, maps = F.multi_head_attention_forward(*args, **told)
    assert maps is not None
    return output, maps

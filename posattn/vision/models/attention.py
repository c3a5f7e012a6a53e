"""Positional attention: out = concat_h(S^h X W_V^h) W_O, where S^h = softmax(A^h) does not depend on X.

Source: arXiv 2210.09221, positional attention.
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from timm.layers import register_notrace_module
from torch import Tensor, nn

from posattn import checks
from posattn.vision.models.mixing import mix_tokens
from posattn.vision.models.scores import PositionEncodings
from posattn.vision.models.snapshot import Snapshot, can_keep, take_snapshot

MapsHNN = Float[Tensor, "h N N"]


@register_notrace_module
class AttentionMaps(nn.Module):
    """S = row-softmax of the scores, computed once per forward pass and, in evaluation without gradients, cached.

    The cache is tied to the modules below, and to the identity, storage and version counter of the tensors it was
    computed from, so in-place changes invalidate it; train(), load_state_dict() and .to() clear it too. Nothing is
    cached while a module has forward hooks (pruning of ``torch.nn.utils`` is one), in transforms of ``torch.func``, or
    of tensors that are not plain ones. Edits through ``tensor.data``, which autograd cannot see, are the exception:
    call ``train(model.training)`` after them.
    """

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores
        self._kept: tuple[Snapshot, Tensor] | None = None

    @no_type_check  # traced, and scripted by timm as a leaf of an fx graph
    def forward(self, positions: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            return self.compute(positions)
        else:  # TorchScript compiles what follows an if, but not its else
            return self._kept_or_computed(positions)

    @torch.jit.unused
    @no_type_check
    def _kept_or_computed(self, positions: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.compute(positions)
        if self.training or torch.is_grad_enabled():
            self.drop()
            return self.compute(positions)
        if self._kept is not None and can_keep() and self._kept[0].holds(self, positions, self.place_now()):
            return self._kept[1]
        maps = self.compute(positions)
        snapshot = take_snapshot(self, positions, self.place_now())
        fake = type(maps) is not Tensor
        self._kept = None if snapshot is None or fake else (snapshot, maps)
        return maps

    @no_type_check
    def compute(self, positions: Tensor | None) -> Tensor:
        """The (h, N, N) softmax in float32, in the type of the scores."""
        scores = self.scores(positions)
        return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)

    def place_now(self) -> object:
        """What else the maps depend on."""
        return None

    def drop(self) -> None:
        """Clear the cached maps."""
        self._kept = None

    def train(self, mode: bool = True) -> "AttentionMaps":
        self.drop()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "AttentionMaps":
        self.drop()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


class FrozenMaps(nn.Module):
    """Constant (h, N, N) maps, or (h, N, k) entries of pruned ones, a buffer. ValueError: not finite.

    Subnormal entries, common in concentrated maps, become zeros: products with them are slow.
    """

    maps: Tensor

    def __init__(self, maps: Float[Tensor, "h N k"]) -> None:
        super().__init__()
        if not maps.is_meta and not (finite := maps.isfinite().flatten(1).all(1)).all():
            raise ValueError(
                f"attention maps of heads {(~finite).nonzero().flatten().tolist()} are not finite"
            )
        maps = maps.detach()
        # in float16 numbers that small are ordinary entries of a row
        tiny = torch.finfo(torch.promote_types(maps.dtype, torch.float32)).tiny
        self.register_buffer("maps", maps.where(maps.abs() >= tiny, 0))

    @no_type_check  # traced and scripted
    def forward(self, positions: Tensor | None = None) -> Tensor:
        return self.maps


def dense(weights: Float[Tensor, "h N k"], indices: Int[Tensor, "h N k"]) -> MapsHNN:
    """Pruned maps, given by entries and their keys, as (h, N, N) maps."""
    h, N, _ = weights.shape
    keys = indices - N * torch.arange(h, device=indices.device)[:, None, None]
    return weights.new_zeros(h, N, N).scatter(2, keys, weights)


class NoMaps(nn.Module):
    """In place of maps that are not attached yet: a forward pass raises ValueError."""

    @no_type_check  # traced and scripted
    def forward(self, positions: Tensor | None = None) -> Tensor:
        raise ValueError("positional attention has no maps: attach them, or use VisionTransformerPosAttn")


class PositionalAttention(nn.Module):
    """Attention that depends on positions alone; replaces timm's ``Attention`` (``attn_layer``).

    ``attach`` sets its maps once the tokens are known, as VisionTransformerPosAttn does; a forward pass before raises
    ValueError. ``indices`` are the keys of pruned maps.

    Args:
        dim: D, channels of a token.
        num_heads: h, a divisor of ``dim``.
        qkv_bias: a bias on the values (scores have none).
        qk_norm: normalise queries and keys of ``encodings`` scores with ``norm_layer``.
        scale_norm: normalise the heads' output with ``norm_layer``.
        proj_bias: a bias on the output projection.
        attn_drop: dropout on the entries of the maps, one draw for the whole batch.
        proj_drop: dropout on the output.
        norm_layer: constructor of the norms.

    Raises:
        TypeError, ValueError: ``num_heads`` does not divide ``dim``, or a norm is requested without
        ``norm_layer``.
    """

    indices: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Any = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.head_dim = checks.divides("num_heads", num_heads, "dim", dim)
        if (qk_norm or scale_norm) and norm_layer is None:
            raise ValueError("qk_norm and scale_norm need a norm_layer, got None")
        self.dim, self.num_heads = dim, num_heads
        self.qk_norm_layer = norm_layer if qk_norm else None
        self.v = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.maps: nn.Module = NoMaps()
        self.register_buffer("indices", None)  # of pruned maps
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = norm_layer(dim, **dd) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self._encodings: tuple[PositionEncodings, ...] = ()
        self.fixed_grid: Any = None  # of a converted model: its ``check`` refuses another grid than the maps'

    def attach(self, maps: nn.Module, encodings: PositionEncodings | None = None) -> "PositionalAttention":
        """Set ``maps`` and the shared encodings they read.

        The encodings belong to the model: they are not registered here, so the parameter has a single name in a state
        dict.
        """
        self.maps, self._encodings = maps, () if encodings is None else (encodings,)
        return self

    @no_type_check  # traced and scripted
    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        values = self.v(x)
        maps = self.maps(None) if torch.jit.is_scripting() else self.maps(self._positions())
        x = self.norm(mix_tokens(self.attn_drop(maps), values, self.indices, attn_mask, is_causal))
        return self.proj_drop(self.proj(x))

    @no_type_check  # traced
    def _positions(self) -> Tensor | None:
        if self.fixed_grid is not None:
            self.fixed_grid.check()
        return self._encodings[0].weight if self._encodings else None

    def attention_maps(self) -> MapsHNN:
        """S, the (h, N, N) maps of this layer: the caller's own, not the tensor that the layer keeps."""
        maps = self.maps(self._positions())
        return maps.clone() if self.indices is None else dense(maps, self.indices)

    def reparameterize(self) -> None:
        """Freeze in place, for timm's ``reparameterize_model``: the maps become a buffer, Q and K are dropped."""
        if not isinstance(self.maps, FrozenMaps):
            with torch.no_grad():
                self.attach(FrozenMaps(self.attention_maps()))

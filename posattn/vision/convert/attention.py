"""Attention in which some or all heads use constant maps."""

from collections.abc import Mapping
from typing import Any, no_type_check

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from posattn.vision.convert.heads import ContentHeads, DenseHeads, heads_of_kind, log_table
from posattn.vision.convert.parts import linear, read_parts, reordered
from posattn.vision.models.attention import FrozenMaps, MapsHNN
from posattn.vision.models.scores import TableScores


class ConvertedAttention(nn.Module):
    """Replaces a timm attention: chosen heads attend by constant maps, the others by content.

    Heads are reordered, in the values as in the output projection: by ``KINDS``, then the content-based ones. Q and K
    of converted heads are gone.

    Args:
        attn: the layer to replace, one of ``parts.READERS``.
        kinds: of each converted head, how it is kept.
        groups: of each kind, the module of its heads, in increasing order of their numbers.
    """

    __jit_unused_properties__ = ("order", "rel_pos")

    def __init__(self, attn: Any, kinds: Mapping[int, str], groups: Mapping[str, nn.Module]) -> None:
        super().__init__()
        parts = read_parts(attn)
        self.num_heads, self.head_dim = attn.num_heads, parts.weight.shape[2]
        self.kinds = dict(sorted(kinds.items()))
        content = [head for head in range(attn.num_heads) if head not in kinds]
        order = [*(head for kind in groups for head in heads_of_kind(kinds, kind)), *content]
        counts = [len(heads_of_kind(kinds, kind)) for kind in groups] + [len(content)]
        self.widths = [count * self.head_dim for count in counts]
        self.groups = nn.ModuleDict(dict(groups))
        self.content = ContentHeads(attn, parts, content) if content else None
        self.v = linear(parts, [2], order)
        self.norm = reordered(getattr(attn, "norm", nn.Identity()), order, self.head_dim)
        gate = getattr(attn, "gate", None)
        self.gate = None if gate is None else reordered(gate, order, self.head_dim)
        self.proj = reordered(attn.proj, order, self.head_dim, dim=1)
        self.proj_drop = attn.proj_drop

    @property
    def order(self) -> list[int]:
        """The original numbers of the heads, in the order in which they are held."""
        converted = [head for kind in self.groups for head in heads_of_kind(self.kinds, kind)]
        return [*converted, *(self.content.heads if self.content is not None else [])]

    @property
    def rel_pos(self) -> nn.Module | None:
        """The relative biases, for timm's ``set_input_size``."""
        return None if self.content is None else self.content.bias

    def set_window_size(self, window_size: tuple[int, int]) -> None:
        """For timm's ``set_input_size``: resize the relative biases."""
        bias: Any = self.rel_pos
        if bias is not None:
            bias.set_window_size(window_size)

    @no_type_check  # traced and scripted
    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        shared_rel_pos: Tensor | None = None,
        shared_rel_pos_bias: Tensor | None = None,
    ) -> Tensor:
        values = unmasked(self.v(x), attn_mask, is_causal).split(self.widths, 2)
        mixed: list[Tensor] = []
        for i, group in enumerate(self.groups.values()):
            mixed.append(group(values[i]))
        if self.content is not None:
            shared = shared_rel_pos if shared_rel_pos_bias is None else shared_rel_pos_bias
            mixed.append(self.content(x, values[-1], rope, shared))
        out = self.norm(torch.cat(mixed, 2))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))

    def attention_maps(self) -> MapsHNN:
        """S, the (p, N, N) maps of the converted heads, in the order of ``order``."""
        groups: Any = self.groups.values()
        return torch.cat([group.attention_maps() for group in groups])

    def reparameterize(self) -> None:
        """Freeze in place, for timm's ``reparameterize_model``: tables become buffers, the rest stays as it is."""
        for group in self.groups.values():
            if isinstance(group, DenseHeads) and isinstance(getattr(group.maps, "scores", None), TableScores):
                with torch.no_grad():
                    group.maps = FrozenMaps(group.attention_maps())
            group.requires_grad_(False)

    def thaw(self) -> None:
        """Make the maps trainable, in place: tables become the logarithms of their entries."""
        for group in self.groups.values():
            if isinstance(group, DenseHeads) and isinstance(group.maps, FrozenMaps):
                group.maps = log_table(group.maps.maps)
            group.requires_grad_(True)


@torch.fx.wrap
@register_notrace_function
@no_type_check  # traced and scripted
def unmasked(values: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """The values. Raises ValueError if a mask is given."""
    if attn_mask is not None or is_causal:
        raise ValueError("positional attention takes no mask: its maps are constants of the model")
    return values

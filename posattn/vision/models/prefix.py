"""Class token and registers of a checkpoint: their rows and columns, and those that a model lacks."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._input import get_pretrained_grid_size
from torch import Tensor

State = dict[str, Tensor]
PREFIX = ("cls_token", "reg_token")  # in the order of the tokens
TOKEN_AXES = {  # of parameters and maps, by the end of the name; prefix tokens come first along each
    "pos_embed": (1,),
    "pos_encodings.weight": (0,),
    ".scores.table": (1, 2),  # not of relative scores
    ".prefix_rows": (1, 2),
    ".prefix_columns": (2,),
    ".maps.maps": (1, 2),
}


def drop_prefix(state: State, model: Any) -> State:
    """Without the class token and the registers that the model lacks, nor their rows and columns.

    Maps are renormalised, as the softmax of the scores left is. Raises ValueError if the model has prefix tokens that
    the checkpoint lacks.
    """
    lengths = {name: state[name].shape[1] for name in PREFIX if name in state}
    refuse_lacking(lengths, model)
    lacking = {name for name in lengths if getattr(model, name) is None}
    if not lacking:
        return state
    tokens = [name for name, length in lengths.items() for _ in range(length)]
    kept = [i for i, name in enumerate(tokens) if name not in lacking]
    embedded = "pos_embed" in state and embeds_prefix(len(tokens), state, model)
    without = {}
    for name, value in state.items():
        axes = token_axes(name, model) if name != "pos_embed" or embedded else ()
        cut = keep_tokens(value, axes, kept, len(tokens))
        without[name] = F.normalize(cut, p=1, dim=2) if name.endswith(".maps.maps") else cut
    empty = () if kept else (".prefix_rows", ".prefix_columns")
    return {k: v for k, v in without.items() if k not in lacking and not k.endswith(empty)}


def refuse_lacking(lengths: dict[str, int], model: Any) -> None:
    """Raise ValueError if the model has prefix tokens that a checkpoint, of ``lengths``, lacks, or has more of."""
    for name in PREFIX:
        own, held = getattr(model, name), lengths.get(name, 0)
        if own is not None and own.shape[1] != held:
            raise ValueError(
                f"the model has {own.shape[1]} prefix tokens in {name}, the checkpoint {held}: build it with as many"
            )


def token_axes(name: str, model: Any) -> tuple[int, ...]:
    """The axes of a parameter along which it has an entry for every token."""
    if name.endswith(".scores.table") and model.score_kind == "relative":
        return ()
    return next((axes for end, axes in TOKEN_AXES.items() if name.endswith(end)), ())


def keep_tokens(value: Tensor, axes: Sequence[int], kept: Sequence[int], num_prefix: int) -> Tensor:
    """Entries of the prefix tokens numbered ``kept``, and of all patches, along ``axes``."""
    for axis in axes:
        tokens = [*kept, *range(num_prefix, value.shape[axis])]
        value = value.index_select(axis, torch.tensor(tokens, dtype=torch.long, device=value.device))
    return value


def scored_patches(state: State, model: Any) -> int | None:
    """The number of patches of a checkpoint of positional attention, by its scores or maps; None for a stock ViT's."""
    for name, value in state.items():
        if name.endswith(".scores.table") and model.score_kind == "relative":
            return (value.shape[1] + 1) // 2 * ((value.shape[2] + 1) // 2)
        if name.endswith(("pos_encodings.weight", ".scores.table", ".maps.maps")):
            tokens = value.shape[token_axes(name, model)[0]]
            return tokens - sum(state[each].shape[1] for each in PREFIX if each in state)
    return None


def embeds_prefix(num_prefix: int, state: State, model: Any) -> bool:
    """Whether the ``pos_embed`` of a checkpoint has rows for its prefix tokens, by its scores or the grid that is left.

    Raises ValueError if both grids are possible: 225 rows are 15 x 15 patches, or 14 x 16 and a class token.
    """
    rows, weight = state["pos_embed"].shape[1], state.get("patch_embed.proj.weight")
    if (patches := scored_patches(state, model)) is not None:
        return rows != patches
    known = {
        prefix > 0
        for prefix in (0, num_prefix)
        if rows - prefix == model.patch_embed.num_patches
        or get_pretrained_grid_size(model, weight, rows - prefix)
    }
    if len(known) != 1 and math.isqrt(rows) ** 2 == rows:
        raise ValueError(
            f"cannot tell whether the {rows} rows of pos_embed are patches alone or hold the checkpoint's {num_prefix} "
            "prefix tokens: load it at its own img_size, then call set_input_size"
        )
    return known != {False}

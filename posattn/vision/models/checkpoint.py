"""Checkpoints of another grid, and of timm's stock ViTs, for models with positional attention."""

import math
import re
from collections.abc import Mapping
from typing import Any

from timm.models._input import get_pretrained_grid_size
from timm.models.vision_transformer import checkpoint_filter_fn as vit_filter
from torch import Tensor, nn

from posattn.vision.grid import Grid
from posattn.vision.models.attention import dense
from posattn.vision.models.prefix import drop_prefix, scored_patches
from posattn.vision.models.refusals import of_another_grid, refuse_frozen_maps, refuse_other_scores
from posattn.vision.models.scores import OnGrid
from posattn.vision.models.state_dicts import unwrap_checkpoint

State = dict[str, Tensor]


def checkpoint_filter_fn(state_dict: dict[str, Any], model: Any) -> State:
    """A state dict for ``model.load_state_dict``, from a checkpoint of the same kind or of a stock ViT.

    Parameters that depend on the grid are resampled, also to a grid of as many patches where the checkpoint's is known:
    by relative scores, or by the input size in its config, as timm resamples position embeddings. From a stock ViT, V
    (split from the fused qkv) and everything outside attention are kept; Q and K of positional blocks are dropped and
    the model keeps its own scores. A class token or registers that the model lacks are dropped, with their rows and
    columns of P, tables and maps.

    Args:
        state_dict: a state dict, bare, or wrapped or prefixed as in ``state_dicts.unwrap_checkpoint``.
        model: a VisionTransformerPosAttn.

    Raises:
        ValueError: nothing of the checkpoint belongs to the model, or its grid is unknown: not the model's, not square
            and not in ``model.pretrained_cfg``. Where the model lacks a prefix token of a stock ViT's checkpoint, a
            square number of position embeddings is ambiguous too. The checkpoint lacks a prefix token of the model,
            or has relative scores where the model has free tables, or the reverse. Its maps are frozen on another grid.
    """
    unwrapped, _ = unwrap_checkpoint(state_dict, set(model.state_dict()))
    if not unwrapped.keys() & model.state_dict().keys():
        held = ", ".join(list(unwrapped)[:3])
        raise ValueError(f"nothing of the checkpoint belongs to this model: it holds {held} …")
    refuse_other_scores(unwrapped, model)
    state = drop_prefix(dict(ungathered(unwrapped, model)), model)
    refuse_frozen_maps(state, model)
    state = rename_norm(resample_scores(state, model), model)
    return values_of_stock(vit_filter(state, model), model)


def source_grid(state: State, model: Any) -> tuple[int, int]:
    """The grid that a checkpoint of a model with positional attention was made for."""
    tables = [v for k, v in state.items() if k.endswith(".scores.table")]
    if model.score_kind == "relative" and tables:
        return (tables[0].shape[1] + 1) // 2, (tables[0].shape[2] + 1) // 2
    return grid_of(scored_patches(state, model), state, model)  # type: ignore[arg-type]  # it has scores


def grid_of(num_patches: int, state: State, model: Any) -> tuple[int, int]:
    """The grid of a checkpoint of ``num_patches``: from its input size, else the model's, else square."""
    known = get_pretrained_grid_size(model, state.get("patch_embed.proj.weight"), num_patches)
    if known is None and num_patches == model.patch_embed.num_patches:
        known = model.patch_embed.grid_size
    side = math.isqrt(num_patches)
    if known is None and side * side != num_patches:
        raise ValueError(
            f"cannot tell the grid of a checkpoint of {num_patches} patches: "
            "load it at its own img_size, then call set_input_size"
        )
    return known or (side, side)


def rename_norm(state: State, model: Any) -> State:
    """The last norm under the name it has in the model: before the pooling (norm) or after (fc_norm)."""
    for name, other in (("norm", "fc_norm"), ("fc_norm", "norm")):
        if hasattr(getattr(model, name), "weight") and f"{name}.weight" not in state:
            state = {re.sub(rf"^{other}\.", f"{name}.", k): v for k, v in state.items()}
    return state


def resample_scores(state: State, model: Any) -> State:
    """P and the tables of scores on the model's grid."""
    own, resampled = model.state_dict(), dict(state)
    for path, module in model.named_modules():
        if not isinstance(module, OnGrid):
            continue
        for name, _ in module.named_parameters(recurse=False):
            key = f"{path}.{name}"
            if key not in state or not fits(key, state[key], own[key]):
                continue
            old = Grid(*source_grid(state, model), model.num_prefix_tokens)
            if old != module.grid:
                resampled[key] = module.resample(name, state[key], old, module.grid)
    return resampled


def fits(name: str, held: Tensor, own: Tensor) -> bool:
    """Whether a checkpoint's parameter is the model's on the same or another grid."""
    return held.shape == own.shape or of_another_grid(name, held, own)


def values_of_stock(state: State, model: Any) -> State:
    """Content attention's weights as positional attention's: V out of the fused qkv, no Q and K."""
    positional = [f"blocks.{i}.attn." for i, block in enumerate(model.blocks) if hasattr(block.attn, "maps")]
    stock = tuple(prefix for prefix in positional if f"{prefix}qkv.weight" in state)
    if not stock:
        return state
    own = (*(f"{prefix}maps." for prefix in stock), "pos_encodings.")
    kept = {k: v for k, v in model.state_dict().items() if k.startswith(own)}
    for name, value in state.items():
        if not name.startswith(stock) or not re.search(r"\.(qkv|q_norm|k_norm)\.", name):
            kept[name] = value
        elif ".qkv." in name:
            kept[name.replace(".qkv.", ".v.")] = value.chunk(3)[2]
    return kept


def ungathered(state: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """Pruned maps that were saved as entries and keys, made dense if the model uses dense maps."""
    own = model.state_dict()
    gathered = [name for name in state if name.endswith(".indices") and name not in own]
    if not gathered:
        return state
    whole = dict(state)
    for name in gathered:
        maps = name.removesuffix("indices") + "maps.maps"
        whole[maps] = dense(whole[maps], whole.pop(name))
    return whole

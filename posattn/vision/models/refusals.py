"""What a checkpoint has that is not the model's: other scores, another grid, other prefix tokens or entries."""

from collections.abc import Mapping
from typing import Any

from timm.models._input import get_pretrained_grid_size
from torch import Tensor, nn

from posattn.vision.models.prefix import PREFIX, scored_patches

GRID_AXES = {  # whose lengths the grid determines, of parameters and maps, by the end of the name
    "pos_embed": {1},
    "pos_encodings.weight": {0},
    ".scores.table": {1, 2},
    ".prefix_rows": {2},
    ".maps.maps": {1, 2},
}


def refuse_other_scores(state: Mapping[str, Any], model: Any) -> None:
    """Raise ValueError if a checkpoint has relative scores and the model free tables, or the reverse.

    Both are named ``table``: (h, N, N) with N tokens, and (h, 2H-1, 2W-1) with H·W patches, which is smaller.
    """
    shape = next((value.shape for name, value in state.items() if name.endswith(".scores.table")), None)
    if shape is None or model.score_kind not in ("relative", "table"):
        return
    _, height, width = shape
    fits = {"relative": height % 2 == width % 2 == 1, "table": height == width}
    if (embedded := state.get("pos_embed")) is not None:
        rows = embedded.shape[1]  # at least the patches, at most the tokens
        fits["relative"] &= (height + 1) * (width + 1) <= 4 * rows
        fits["table"] &= height >= rows
    other = "table" if model.score_kind == "relative" else "relative"
    if fits[other] and not fits[model.score_kind]:
        raise ValueError(
            f"checkpoint of other scores: its tables of shape {tuple(shape)} are of scores={other!r}, the model has "
            f"scores={model.score_kind!r}"
        )


def of_another_grid(name: str, held: Tensor, own: Tensor) -> bool:
    """Whether a checkpoint's parameter differs from the model's in axes that the grid determines, and in no others."""
    axes = next((axes for end, axes in GRID_AXES.items() if name.endswith(end)), set())
    differing = {i for i, (a, b) in enumerate(zip(held.shape, own.shape, strict=False)) if a != b}
    return held.ndim == own.ndim and bool(differing) and differing <= axes


def refuse_frozen_maps(state: dict[str, Any], model: Any) -> None:
    """Raise ValueError if frozen maps are of another grid of as many patches than the model's, by their input size."""
    if not any(name.endswith(".maps.maps") for name in state):
        return
    patches, own = scored_patches(state, model), model.patch_embed.grid_size
    known = get_pretrained_grid_size(model, state.get("patch_embed.proj.weight"), patches or 0)
    if known not in (None, own) and patches == model.patch_embed.num_patches:
        raise ValueError(
            f"checkpoint of another grid: its frozen maps are for {known} patches by its input size, the model has "
            f"{own}; build the model at the checkpoint's img_size, or, if that is its grid, use load_state_dict"
        )


def refuse_other_grid(state: Mapping[str, Any], model: nn.Module) -> None:
    """Raise ValueError if a state dict is of another grid or prefix than the model, or its maps keep other entries.

    Torch names other differences.
    """
    own = model.state_dict()
    same_prefix = all((name in state) == (name in own) for name in PREFIX)
    for name in sorted(own.keys() & state.keys()):
        held, ours = state[name], own[name]
        if of_another_grid(name, held, ours):
            what, advice = difference(name, held, ours, same_prefix)
            raise ValueError(
                f"checkpoint of {what}: {name} is {tuple(held.shape)}, the model's {tuple(ours.shape)}; {advice}"
            )


def difference(name: str, held: Tensor, own: Tensor, same_prefix: bool) -> tuple[str, str]:
    """What a checkpoint has that is not the model's, and what to do, for messages."""
    frozen = name.endswith(".maps.maps")
    if frozen and held.shape[1] == own.shape[1]:
        return "other numbers of entries", f"load it into a model frozen with keep={held.shape[2]}"
    if not same_prefix:
        return "other prefix tokens", "adapt it with checkpoint_filter_fn"
    if frozen:
        return "another grid", "frozen maps are not resampled: build the model at the checkpoint's img_size"
    return "another grid", "resample it with checkpoint_filter_fn, or set_input_size first"

"""timm's models, and any module whose attention layers have ``num_heads``."""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers import (
    AttentionPoolLatent,
    AttentionPoolPrr,
    RelPosBias,
    RelPosBiasTf,
    RelPosMlp,
    RotaryEmbeddingMixed,
    resample_abs_pos_embed,
    resample_abs_pos_embed_nhwc,
    to_2tuple,
)
from timm.models.naflexvit import NaFlexEmbeds
from torch import Tensor, nn

from posattn.vision.grid import Grid
from posattn.vision.inspect.adapters.layer import (
    AttentionLayer,
    GridSize,
    ImageSize,
    Tower,
    outermost_with,
    owner_of,
)

NO_LAYERS = (  # they have heads, but mix no tokens
    AttentionPoolLatent,
    AttentionPoolPrr,
    RelPosBias,
    RelPosBiasTf,
    RelPosMlp,
    RotaryEmbeddingMixed,
)
WINDOWED = {"WindowAttention", "WindowAttentionGlobal", "SpatialBlock", "SwinTransformerV2Block"}
POOLED = {
    "MultiScaleAttention",
    "MultiScaleAttentionPoolFirst",
    "Attention2d",
    "Attention2dDownsample",
    "ConvAttention",
}
DIFFERENTIAL = {"DiffAttention"}
TALKING = {"TalkingHeadAttn", "Attention2d", "Attention2dDownsample"}  # they mix heads after the softmax
REFUSED = {
    "ChannelAttention": "attends among channels, not among tokens",
    "ChannelAttentionV2": "attends among channels, not among tokens",
    "CrossCovarianceAttn": "attends among channels, not among tokens",
    "XCA": "attends among channels, not among tokens",
    "FactorAttnConvRelPosEnc": "normalises its keys over tokens, so that no map exists",
    "GPSA": "mixes two softmax maps by a learned gate",
    "ClassAttn": "attends from the class token alone",
    "CrossAttention": "attends from the class token alone",
    "OutlookAttention": "predicts weights within 3x3 neighbourhoods from each token, without keys",
    "HaloAttn": "attends from blocks to larger blocks around them",
    "LocalWindowAttention": "has a softmax for each head in a chain of heads",
    "LambdaLayer": "normalises its keys over tokens, so that no map exists",
    "GlobalMSA": "has a softmax over pooled tokens of unknown places",
}
LOOSE = {  # attention whose modules have no num_heads
    "MaskUnitAttention": "attends within mask units, whose tokens are not stored row by row",
    "SHMA": "has one head that modulates a convolution",
}
OWNER = ("num_prefix_tokens", "patch_embed", "stem")


def find(model: nn.Module, prefix: str) -> Tower | None:
    """The tower of any model that has a module with ``num_heads``; None without one."""
    found = {
        path: module
        for path, module in outermost_with(model, "num_heads")
        if not isinstance(module, NO_LAYERS)
    }
    unobserved = {
        prefix + path: f"{type(module).__name__} {reason}"
        for path, module in [*found.items(), *model.named_modules()]
        if (reason := reason_against(module, path in found))
    }
    layers = [
        layer_of(model, path, module, prefix)
        for path, module in found.items()
        if prefix + path not in unobserved
    ]
    if not layers and not unobserved:
        return None
    owner = owner_of(model, next(iter(found), ""), *OWNER)
    run: Any = getattr(model, "forward_features", model)
    return Tower(run, layers, unobserved, partial(positions, owner))


def reason_against(module: nn.Module, has_heads: bool) -> str | None:
    """Why a module's attention is not observed; None if it is."""
    return (REFUSED if has_heads else LOOSE).get(type(module).__name__)


def layer_of(model: nn.Module, path: str, module: nn.Module, prefix: str) -> AttentionLayer:
    """The layer of an attention module."""
    owner: Any = owner_of(model, path, *OWNER)
    kind, embed = type(module).__name__, getattr(owner, "patch_embed", None)
    return AttentionLayer(
        prefix + path,
        module,
        int(module.num_heads),  # type: ignore[arg-type]
        getattr(owner, "num_prefix_tokens", None),
        entry_of(owner, embed),
        grid_of(embed),
        window=window_of(model, path, module),
        pooled=kind in POOLED,
        mixes_heads=kind in TALKING,
        maps_per_head=2 if kind in DIFFERENTIAL else 1,
    )


def entry_of(owner: Any, embed: Any) -> nn.Module | None:
    """The module that takes in the image."""
    single = isinstance(embed, nn.Module) and not isinstance(embed, nn.ModuleList)
    return embed if single else getattr(owner, "stem", None)


def window_of(model: nn.Module, path: str, module: nn.Module) -> GridSize | None:
    """The windows that a layer attends within: by its kind, or (SAM) those of the block around it."""
    around = model.get_submodule(path.rpartition(".")[0])
    size: Any = getattr(around, "window_size", 0)
    if type(module).__name__ in WINDOWED:
        size = module.window_size
    return to_2tuple(size) if size else None


def grid_of(embed: Any) -> Callable[[ImageSize], GridSize] | None:
    """The function from image size to grid of a patch embedding, None if it has none."""
    if hasattr(embed, "dynamic_feat_size"):
        return embed.dynamic_feat_size  # type: ignore[no-any-return]
    size = getattr(embed, "grid_size", None)
    return None if size is None else lambda image: tuple(size)  # type: ignore[return-value]


def positions(owner: Any, grid: Grid, image: ImageSize) -> Tensor | None:
    """The encodings P that positional attention reads, else what is added to the patches of this grid.

    None where they are elsewhere.
    """
    encodings = getattr(getattr(owner, "pos_encodings", None), "weight", None)
    if encodings is not None:
        return encodings[-grid.num_patches :] if len(encodings) >= grid.num_patches else None
    if isinstance(flexible := getattr(owner, "embeds", None), NaFlexEmbeds):
        return flexible_positions(flexible, grid)
    embedded = getattr(owner, "pos_embed", None)
    if not isinstance(embedded, Tensor):
        return None
    if embedded.ndim == 4:  # (1, H, W, d)
        return embedded.flatten(1, 2)[0] if tuple(embedded.shape[1:3]) == grid.size else None
    prefix = 0 if getattr(owner, "no_embed_class", False) else grid.prefix
    stored = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
    if embedded.ndim != 3 or not stored:
        return None
    if embedded.shape[1] != prefix + stored[0] * stored[1]:
        return None
    resampled = resample_abs_pos_embed(embedded, list(grid.size), list(stored), num_prefix_tokens=prefix)
    return resampled[0, prefix:]


def flexible_positions(embeds: NaFlexEmbeds, grid: Grid) -> Tensor | None:
    """What NaFlexVit adds to its patches. None without a table, or where its options change the resampling."""
    other = embeds.pos_embed_ar_preserving, embeds.pos_embed_align_corners, embeds.pos_embed_use_grid_sample
    if embeds.pos_embed is None or any(other):
        return None
    mode, antialias = embeds.pos_embed_interp_mode, embeds.pos_embed_antialias
    return resample_abs_pos_embed_nhwc(embeds.pos_embed, list(grid.size), mode, antialias).flatten(1, 2)[0]

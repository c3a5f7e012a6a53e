"""Vision Transformers with positional attention, registered with timm as ``vit_posattn_*``.

Source: arXiv 2210.09221 for the attention; everything else is timm's VisionTransformer.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import Attention, to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from posattn import checks
from posattn.vision.grid import Grid
from posattn.vision.models.attention import AttentionMaps, FrozenMaps, PositionalAttention
from posattn.vision.models.checkpoint import checkpoint_filter_fn, ungathered
from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.patches import project_patches
from posattn.vision.models.refusals import refuse_other_grid, refuse_other_scores
from posattn.vision.models.scores import SCORES, OnGrid, PositionEncodings, Start

UNDECAYED = ("pos_encodings.weight", ".table", ".prefix_rows", ".prefix_columns")


def hybrid_block(depth: int, attn_layer: Any, *, split: int, **options: Any) -> Block:
    """Block number ``depth``: positional up to ``split`` blocks, content-based from there on."""
    layer = PositionalAttention if depth < split else Attention
    return Block(depth=depth, attn_layer=layer, **options)


class VisionTransformerPosAttn(VisionTransformer):
    """timm's ViT whose first ``positional_blocks`` blocks have positional attention.

    Args:
        scores: ``encodings`` (the paper's: P shared by all layers, W_Q and W_K in each), ``relative`` (a 2-D
            table of offsets per head) or ``table`` (free); ``frozen`` is for loading a
            checkpoint of ``freeze_attention``.
        score_std: standard deviation of the scores at the start; near 0 attention starts uniform.
        score_diagonal: σ_A, the initial offset of each token's score on itself.
        positional_blocks: number of leading positional blocks; the rest are content-based. None for all.
        options: those of timm's VisionTransformer; by default no class token and average pooling.

    Raises:
        TypeError, ValueError: an unknown name, a count out of range, or an option that makes tokens vary by
            image (``dynamic_img_size``, ``patch_drop_rate``), which constant maps cannot follow.
    """

    def __init__(
        self,
        *,
        scores: str = "encodings",
        score_std: float = 1.0,
        score_diagonal: float = 0.0,
        positional_blocks: int | None = None,
        **options: Any,
    ) -> None:
        checks.known("scores", scores, [*SCORES, "frozen"])
        start = Start(
            checks.finite("score_std", score_std, 0.0), checks.finite("score_diagonal", score_diagonal, 0.0)
        )
        refuse_varying_tokens(options)
        options = {"class_token": False, "global_pool": "avg", "depth": 12, **options}
        split = split_of(positional_blocks, options["depth"])
        super().__init__(**options, block_fn=partial(hybrid_block, split=split))  # type: ignore[arg-type]
        self.score_kind = scores
        self.patch_embed.proj = project_patches(self.patch_embed.proj)
        dd = {"device": options.get("device"), "dtype": options.get("dtype")}
        encodings = PositionEncodings(self._grid(), self.embed_dim, **dd) if scores == "encodings" else None
        self.pos_encodings: nn.Module = encodings or nn.Identity()
        for attn in self.positional_layers():
            attn.attach(self._new_maps(attn, start, dd), encodings)

    def _new_maps(self, attn: PositionalAttention, start: Start, dd: dict[str, Any]) -> nn.Module:
        grid = self._grid()
        if self.score_kind == "frozen":
            uniform = torch.full(
                (attn.num_heads, grid.num_tokens, grid.num_tokens), 1 / grid.num_tokens, **dd
            )
            return FrozenMaps(uniform)
        norm = {"norm_layer": attn.qk_norm_layer} if self.score_kind == "encodings" else {}
        return AttentionMaps(SCORES[self.score_kind](grid, attn.dim, attn.num_heads, start, **norm, **dd))

    def _grid(self) -> Grid:
        height, width = self.patch_embed.grid_size
        return Grid(height, width, self.num_prefix_tokens)

    def positional_layers(self) -> list[PositionalAttention]:
        """The layers of positional attention, first to last."""
        return [block.attn for block in self.blocks if isinstance(block.attn, PositionalAttention)]

    def attention_maps(self) -> Float[Tensor, "layers h N N"]:
        """S of every layer of positional attention: (layers, h, N, N), rows sum to 1."""
        return torch.stack([attn.attention_maps() for attn in self.positional_layers()])

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """timm's ``set_input_size``; P and the tables are resampled bicubically and the maps rebuilt.

        Raises ValueError if the grid changes and the maps are frozen.
        """
        before = self._grid()
        frozen = any(isinstance(attn.maps, FrozenMaps) for attn in self.positional_layers())
        if frozen and (after := grid_after(self, img_size, patch_size)) != before.size:
            raise ValueError(
                f"frozen maps of grid {before.size} cannot serve grid {after}: resize, then freeze"
            )
        super().set_input_size(img_size, patch_size)
        self.patch_embed.proj = project_patches(self.patch_embed.proj)
        for module in self.modules():
            if isinstance(module, OnGrid) and self._grid() != before:
                module.set_grid(self._grid())

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Raises ValueError for other scores, or another grid, which ``checkpoint_filter_fn`` resamples."""
        state = ungathered(state_dict, self)
        refuse_other_scores(state, self)
        refuse_other_grid(state, self)
        return super().load_state_dict(state, *args, **options)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """timm's set, P, and every table of scores."""
        owned = {name for name, _ in self.named_parameters() if name.endswith(UNDECAYED)}
        return super().no_weight_decay() | owned

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups, P in the stem."""
        groups = super().group_matcher(coarse)
        return {**groups, "stem": groups["stem"] + "|pos_encodings"}

    def __prepare_scriptable__(self) -> nn.Module:
        """TorchScript gets a frozen copy, as it supports neither shared encodings nor a cache."""
        return freeze_attention(self)


def grid_after(model: VisionTransformer, img_size: Any, patch_size: Any) -> tuple[int, int]:
    """The grid that ``set_input_size`` would give."""
    image = to_2tuple(img_size or model.patch_embed.img_size)
    patch = to_2tuple(patch_size or model.patch_embed.patch_size)
    return image[0] // patch[0], image[1] // patch[1]


def split_of(positional_blocks: int | None, depth: int) -> int:
    """The number of leading positional blocks."""
    if positional_blocks is None:
        return depth
    if checks.positive_int("positional_blocks", positional_blocks) > depth:
        raise ValueError(f"positional_blocks must be at most depth={depth}, got {positional_blocks}")
    return positional_blocks


def refuse_varying_tokens(options: dict[str, Any]) -> None:
    """Raise ValueError for the options of timm's ViT that make tokens vary by image."""
    for name in ("dynamic_img_size", "dynamic_img_pad", "patch_drop_rate"):
        if options.get(name):
            raise ValueError(
                f"constant maps need constant tokens, got {name}={options[name]}; see set_input_size"
            )


def _create(variant: str, pretrained: bool, **options: Any) -> nn.Module:
    """A VisionTransformerPosAttn, or timm's wrapper of one for ``features_only``."""
    return build_model_with_cfg(
        VisionTransformerPosAttn,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"},
        **options,
    )


SIZES = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


def _cfg(img_size: int, **options: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, img_size, img_size),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_INCEPTION_MEAN,
        "std": IMAGENET_INCEPTION_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **options,
    }


SHAPES = {"patch16_224": (16, 224), "patch16_384": (16, 384), "patch4_32": (4, 32)}  # patch, image in pixels
VARIANTS = [  # size, shape, hybrid
    *[(size, "patch16_224", hybrid) for size in SIZES for hybrid in (False, True)],
    ("tiny", "patch16_384", False),
    *[(size, "patch4_32", hybrid) for size in ("tiny", "small") for hybrid in (False, True)],
]


def _name(size: str, shape: str, hybrid: bool) -> str:
    return f"vit_posattn_{'hybrid_' * hybrid}{size}_{shape}"


def _entrypoint(size: str, shape: str, hybrid: bool) -> Callable[..., nn.Module]:
    name, (patch_size, img_size) = _name(size, shape, hybrid), SHAPES[shape]

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        options = {**SIZES[size], "patch_size": patch_size, "img_size": img_size, **options}
        if hybrid:
            options.setdefault("positional_blocks", (options["depth"] + 1) // 2)
        return _create(name, pretrained, **options)

    kind = "the first half of the blocks positional" if hybrid else "positional attention in every block"
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"ViT-{size.title()}/{patch_size} at {img_size} px, {kind}."
    return create


__all__ = ["VisionTransformerPosAttn"]  # timm adds the names it registers
default_cfgs = generate_default_cfgs({_name(*v): _cfg(SHAPES[v[1]][1]) for v in VARIANTS})
globals().update({_name(*v): register_model(_entrypoint(*v)) for v in VARIANTS})

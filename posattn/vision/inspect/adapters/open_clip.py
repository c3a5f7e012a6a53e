"""open_clip's visual towers, its own and timm's. The library itself is never imported here."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from posattn.vision.grid import Grid
from posattn.vision.inspect.adapters import timm
from posattn.vision.inspect.adapters.layer import AttentionLayer, GridSize, ImageSize, Tower, outermost_with

POOLS = "pools all tokens by queries of its own"


def find(model: nn.Module, prefix: str) -> Tower | None:
    """The visual tower of a model of the library; None without one."""
    for path, module in model.named_modules():
        if not type(module).__module__.startswith("open_clip."):
            continue
        inside = f"{prefix}{path}." if path else prefix
        run = module if type(model).__module__.startswith("open_clip.") else model
        match type(module).__name__:
            case "VisionTransformer":
                return own_tower(module, inside, run)
            case "TimmModel":
                found = timm.find(module.trunk, f"{inside}trunk.")  # type: ignore[arg-type]
                return found and Tower(run, found.layers, found.unobserved, found.positions)
            case "ModifiedResNet":
                return Tower(run, [], {f"{inside}attnpool": f"the last layer of a ResNet {POOLS}"})
    return None


def own_tower(visual: Any, prefix: str, run: nn.Module) -> Tower:
    """The layers of open_clip's VisionTransformer: class token first."""
    inside, grid = f"{prefix}transformer.", partial(grid_of, visual)
    found: list[tuple[str, Any]] = list(outermost_with(visual.transformer, "num_heads"))
    layers = [
        AttentionLayer(inside + path, module, int(module.num_heads), 1, visual.conv1, grid)
        for path, module in found
    ]
    pools = outermost_with(visual.attn_pool, "num_heads") if visual.attn_pool is not None else []
    unobserved = {f"{prefix}attn_pool.{path}": POOLS for path, _ in pools}
    return Tower(run, layers, unobserved, partial(positions, visual))


def grid_of(visual: Any, image: ImageSize) -> GridSize:
    """Whole patches of an image."""
    return image[0] // visual.patch_size[0], image[1] // visual.patch_size[1]


def positions(visual: Any, grid: Grid, image: ImageSize) -> Tensor | None:
    """The embedding of the patches; resampled only when a checkpoint is loaded."""
    embedded: Tensor = visual.positional_embedding[1:]
    return embedded if len(embedded) == grid.num_patches else None

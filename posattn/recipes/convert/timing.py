"""Timings of the original and the converted model, side by side."""

import copy
from functools import partial
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from posattn.bench.cost import multiply_adds
from posattn.bench.models import synchronize
from posattn.bench.timing import interleaved, quartiles
from posattn.recipes.convert.settings import ConvertConfig
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.replacement import converted
from posattn.vision.convert.reruns import Subject
from posattn.vision.models.freeze import freeze_attention

ORIGINAL, CONVERTED = "original", "converted"


@torch.no_grad()  # not inference mode: maps by offset of tensors that are made in it are computed at every pass
def seconds_of_kinds(subject: Subject, config: ConvertConfig) -> dict[str, float]:
    """For each kind, the median seconds of an attention layer with all heads of that kind."""
    vit, number = adapter_of(subject.model), min(subject.layers)
    attn: Any = vit.plain(subject.layers[number])
    grid, place = vit.grid(), vit.place()
    maps = next(iter(subject.maps.values()))[number]
    like = next(vit.model.parameters())
    tokens = torch.randn(config.batch, grid.num_tokens, attn.proj.out_features).to(like)
    works: dict[str, Any] = {}
    for kind in config.kinds:
        kinds = dict.fromkeys(range(len(maps)), kind)
        layer = converted(copy.deepcopy(attn), maps, kinds, place, grid, config.window).eval()
        works[kind] = partial(timed, layer, tokens)
    seconds = interleaved(works, config.rounds)
    return {kind: quartiles(seconds[kind]).median for kind in config.kinds}


def timed(model: nn.Module, images: torch.Tensor) -> None:
    """One forward."""
    model(images)
    synchronize(images.device)


@torch.no_grad()
def speed(
    config: ConvertConfig, original: nn.Module, changed: nn.Module, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """Both models at every size: pictures per second (median and quartiles), their ratio, and multiply-adds.

    The original runs with fused attention; the converted one is frozen. They are interleaved.
    """
    own = adapter_of(original).image_size
    sizes = {}
    for size in progress.track(config.sizes or (own[0],), description="convert: speed"):
        models = {name: copy.deepcopy(m).eval() for name, m in ((ORIGINAL, original), (CONVERTED, changed))}
        shape = (size, size) if config.sizes else own
        if shape != own:
            for model in models.values():
                adapter_of(model).set_size(shape)
        models[CONVERTED] = freeze_attention(models[CONVERTED])
        label = " x ".join(map(str, dict.fromkeys(shape)))  # of squares their side
        sizes[label] = at_size({name: m.to(device) for name, m in models.items()}, shape, config, device)
    return {"threads": torch.get_num_threads(), "device": str(device), "batch": config.batch, "sizes": sizes}


def at_size(
    models: dict[str, nn.Module], shape: Any, config: ConvertConfig, device: torch.device
) -> dict[str, Any]:
    """Both models at one size."""
    images = torch.randn(config.batch, adapter_of(models[ORIGINAL]).channels, *shape, device=device)
    seconds = interleaved(
        {name: partial(timed, model, images) for name, model in models.items()}, config.rounds
    )
    found: dict[str, Any] = {
        name: {
            "images_per_second": list(quartiles([config.batch / s for s in seconds[name]])),
            "multiply_adds": multiply_adds(model, images) / config.batch,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        for name, model in models.items()
    }
    pairs = zip(seconds[ORIGINAL], seconds[CONVERTED], strict=True)
    return {**found, "ratio": list(quartiles([a / b for a, b in pairs]))}

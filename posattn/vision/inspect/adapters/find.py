"""The adapter of a model: by the library that its vision tower comes from, looked for through wrappers."""

from dataclasses import replace

from torch import nn

from posattn.vision.inspect.adapters import open_clip, timm, torchvision, transformers
from posattn.vision.inspect.adapters.layer import Tower, with_blocks

TRANSPARENT = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


def find_attention(model: nn.Module) -> Tower:
    """Where attention happens in a vision model of timm, torchvision, transformers or open_clip.

    ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` are taken off; any other module around the
    model (a ``Sequential`` with a head, peft, ``features_only``) runs as it is. Paths are those in ``model``.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has no attention, or none that can be observed (the reasons are listed).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inner, prefix = unwrap(model)
    for adapter in (open_clip, transformers, torchvision, timm):
        tower = adapter.find(inner, prefix)
        if tower is not None:
            break
    if tower is None:
        raise ValueError(f"{type(inner).__name__} has no attention that is known: no module has num_heads")
    if not tower.layers:
        reasons = "; ".join(dict.fromkeys(tower.unobserved.values()))
        raise ValueError(f"no attention of {type(inner).__name__} can be observed: {reasons}")
    return replace(tower, layers=with_blocks(model, tower.layers))


def unwrap(model: nn.Module) -> tuple[nn.Module, str]:
    """The model inside wrappers that only change how it is run, and its path in them, with a dot at the end."""
    path = ""
    while (name := TRANSPARENT.get(type(model).__name__)) is not None:
        model, path = getattr(model, name), f"{path}{name}."
    return model, path

"""What a model is made of beside its weights, to tell whether a checkpoint is of the same model."""

import inspect
from collections.abc import Mapping
from functools import cache

from torch import nn

PLAIN = (bool, int, float, str)


def structure(model: nn.Module) -> dict[str, str]:
    """The class of each module by its path, and each plain setting of its constructor: "blocks.0.attn:num_heads".

    Identities do nothing, and do not count.
    """
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        kind: type = type(module)
        if kind is nn.Identity:
            continue
        found[path] = kind.__name__
        for name in parameters(kind):
            if isinstance(value := vars(module).get(name), PLAIN):
                found[f"{path}:{name}"] = repr(value)
    return found


@cache
def parameters(kind: type) -> tuple[str, ...]:
    """The names of the parameters of the constructors of a class and those it is derived from."""
    known = [
        each.__init__ for each in kind.__mro__ if issubclass(each, nn.Module) and "__init__" in vars(each)
    ]
    return tuple(dict.fromkeys(name for init in known for name in inspect.signature(init).parameters))


def difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """The first difference between two structures, empty if there is none.

    Settings that one side lacks do not count: another version of a library may have more of them.
    """
    for place in dict.fromkeys([*ours, *theirs]):
        here, there = ours.get(place, "missing"), theirs.get(place, "missing")
        if here != there and (":" not in place or "missing" not in (here, there)):
            return f"{'the whole' * (place[:1] in ('', ':'))}{place} is {there} there and {here} here"
    return ""

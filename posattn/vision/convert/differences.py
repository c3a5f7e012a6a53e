"""The first difference between two models in what they are made of, whatever their weights are."""

from torch import nn


def difference(model: nn.Module, other: nn.Module, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Where two models that should be alike differ, by their modules, then their tensors; None if nowhere.

    Args:
        model: the first.
        other: the second; the message calls it "built again".
        shapes: of the first model's state, under the names that the second has for it.
    """
    theirs = {name: tuple(value.shape) for name, value in other.state_dict().items()}
    for ours, again in ((parts(model), parts(other)), (shapes, theirs)):
        for name in [*ours, *(name for name in again if name not in ours)]:
            if (mine := ours.get(name, "missing")) != (its := again.get(name, "missing")):
                return f"{name or 'the whole'} is {mine}, built again {its}"
    return None


def parts(model: nn.Module) -> dict[str, str]:
    """Each module by its path, with its class and settings, but for those that do nothing in evaluation."""
    named = {
        path: f"{type(module).__name__}({module.extra_repr()})" for path, module in model.named_modules()
    }
    return {path: one for path, one in named.items() if "Drop" not in one and not one.startswith("Identity(")}

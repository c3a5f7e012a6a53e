"""Loading weights into a model, with a one-line error if they do not fit."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

SHOWN = 3  # names of each kind


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """``model.load_state_dict(tensors)``. Raises ValueError naming ``where`` and the first names that differ."""
    theirs, ours = tensors.keys(), model.state_dict()
    differing = [name for name in ours.keys() & theirs if ours[name].shape != tensors[name].shape]
    faults = {
        "missing": ours.keys() - theirs,
        "unexpected": theirs - ours.keys(),
        "of another shape": differing,
    }
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        said = "; ".join(f"{what} {first(names)}" for what, names in faults.items() if names)
        raise ValueError(f"{where} is of another model: {said or one_line(error)}") from error


def first(names: Iterable[str]) -> str:
    """The first few of the names, and the number of the rest."""
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + more


def one_line(error: BaseException) -> str:
    """The beginning of what an error says, on one line."""
    return " ".join(str(error).split())[:200]

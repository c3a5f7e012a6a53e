"""What attention maps were computed from, so that those of an unchanged module need not be computed again."""

from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

VERSION = attrgetter("_version")


def can_keep() -> bool:
    """Whether what a module returns can be kept at all: not in transforms of torch.func, nor under global hooks."""
    return not (torch._C._are_functorch_transforms_active() or _has_any_global_hook())


class Snapshot:
    """The tensors below a module, and what else its output depends on, as they are now; ``holds`` if they still are.

    It goes by identity, storage and version counter of each tensor. ``holds`` runs in every layer of every forward
    pass: functions in C go through flat lists, as a walk over the modules takes several times as long.
    """

    def __init__(self, module: nn.Module, positions: Tensor | None, other: object) -> None:
        modules = list(module.modules())
        members = [held for m in modules for held in (m._modules, m._parameters, m._buffers)]
        hooks = [held for m in modules for held in (m._forward_hooks, m._forward_pre_hooks)]
        self.own, self.positions, self.other = module._modules, positions, other
        self.held = modules[1:]  # alive, so that no other object gets the id of one
        self.empty = [*hooks, *(held for held in members if not held)]
        self.members = [(held, list(map(id, held.values()))) for held in members if held]
        self.tensors = tensors_of(module, positions)
        self.device = self.tensors[0].device.type
        self.cast = cast_on(self.device)
        self.marks = marks(self.tensors)

    def holds(self, module: nn.Module, positions: Tensor | None, other: object) -> bool:
        """Whether nothing has changed since. False of another module, and of one that has forward hooks by now."""
        if positions is not self.positions or module._modules is not self.own or other != self.other:
            return False
        if any(self.empty) or cast_on(self.device) != self.cast:
            return False
        for held, ids in self.members:
            if list(map(id, held.values())) != ids:
                return False
        return marks(self.tensors) == self.marks


def take_snapshot(module: nn.Module, positions: Tensor | None, other: object) -> Snapshot | None:
    """A snapshot of a module, of a tensor and of any other value that its output depends on.

    None where a change could not be seen: with forward hooks (pruning of ``torch.nn.utils`` is one), of tensors that
    are not plain ones, of replicas of nn.DataParallel, which live for one pass, and where ``can_keep`` is False.
    """
    if not can_keep() or getattr(module, "_is_replica", False):
        return None
    if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        return None
    tensors = tensors_of(module, positions)
    # tensors of inference mode have no version counter, subclasses perhaps no storage
    if not tensors or any(t.is_inference() or type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return None
    return Snapshot(module, positions, other)


def tensors_of(module: nn.Module, positions: Tensor | None) -> list[Tensor]:
    """Parameters and buffers of a module and of those below it, after the positions."""
    return [*([] if positions is None else [positions]), *module.parameters(), *module.buffers()]


def marks(tensors: list[Tensor]) -> tuple[list[int], list[int]]:
    """The version counter and the storage of every tensor."""
    return list(map(VERSION, tensors)), list(map(Tensor.data_ptr, tensors))


def cast_on(device: str) -> torch.dtype | None:
    """The type that autocast casts to on a kind of device; None where it is off, or there is none, as on meta."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None

"""The processes of one run under torchrun or accelerate: all compute, only rank 0 writes."""

import os
from typing import TypeVar

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that torchrun or accelerate started for this run; 1 without them.

    Raises ValueError if WORLD_SIZE is not a number of at least 1.
    """
    size = os.environ.get("WORLD_SIZE") or "1"
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(f"WORLD_SIZE must be an integer of at least 1, got {size!r}")
    return int(size)


def is_writer() -> bool:
    """Whether this process writes the run folder: rank 0 does."""
    return os.environ.get("RANK") in (None, "", "0") or world_size() == 1


def share(value: T) -> T:
    """The value of rank 0, in every process; each waits here for the others."""
    if world_size() == 1:
        return value
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    # the first one joins the processes, trainings use it
    PartialState(cpu=not torch.accelerator.is_available())
    return broadcast_object_list([value])[0]

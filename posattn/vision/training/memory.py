"""Running out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error of the CPU or a GPU into a MemoryError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"out of memory with {advice}") from error

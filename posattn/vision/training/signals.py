"""Answering SIGTERM at a moment of one's own choosing."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """While entered, SIGTERM only sets ``received``; the handler before it is put back at the end.

    Signals reach the main thread alone, so elsewhere this does nothing, as with ``active=False``.
    """

    def __init__(self, active: bool = True) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received = False

    def __enter__(self) -> "StopSignal":
        if self.active:
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True

"""Answering signals at a moment of one's own choosing."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from posattn.runs.stopping import Stopped, handle, restore


class StopSignal:
    """While entered, SIGINT, SIGTERM and SIGHUP only set ``received``; the handlers before are put back at the end.

    A second SIGINT goes to the handler before at once, for a user who does not want to wait. Signals reach the main
    thread alone, so elsewhere this does nothing, as with ``active=False``.
    """

    def __init__(self, active: bool = True) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received = 0  # the signal's number
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if self.active:
            self._before = handle(self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        restore(self._before)

    def stop(self) -> None:
        """Answer the signal: by the handler before where there is one, else by raising ``Stopped``."""
        number = self.received or signal.SIGTERM  # one that another process of the training received
        restore(self._before)
        before = self._before.get(signal.Signals(number))
        if callable(before):
            before(number, None)
        raise Stopped(number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            self.stop()
        self.received = number

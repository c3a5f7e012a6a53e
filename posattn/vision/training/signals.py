"""Deferred handling of signals."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from posattn.runs.stopping import Stopped, handle, restore


class StopSignal:
    """Context in which SIGINT, SIGTERM and SIGHUP only set ``received``; the previous handlers are restored at the end.

    A second SIGINT goes to the previous handler at once, for a user who does not want to wait. In threads other than
    the main one this does nothing, as with ``active=False``.
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
        """Handle the signal: call the previous handler if there is one, else raise ``Stopped``."""
        number = self.received or signal.SIGTERM  # received by another process of the training
        restore(self._before)
        before = self._before.get(signal.Signals(number))
        if callable(before):
            before(number, None)
        raise Stopped(number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            self.stop()
        self.received = number

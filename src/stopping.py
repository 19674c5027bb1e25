"""Ending a run on SIGINT and SIGTERM at a place that it can go on from."""

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to end, and says where it stands."""


class StopSignals:
    """Notes the first SIGINT or SIGTERM while it is entered; a second one ends at once.

    Only the main thread can be told of signals: entered in another one, it does nothing.
    """

    def __init__(self):
        self.received: str | None = None  # name of the signal
        self._before: dict = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

"""Stop a run on SIGINT or SIGTERM after the current step, so that it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; the text says where, and how to continue."""


class StopSignals:
    """Within its context the first SIGINT or SIGTERM is only recorded in `received`; a second one
    interrupts at once, and so does the first where nothing would be lost (`ending`).

    Only the main thread may handle signals: entered in another thread, it does nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal
        self._before: dict = {}
        self._ending = ""

    @contextmanager
    def ending(self, where: str) -> Iterator[None]:
        """Within the block a signal interrupts at once, because everything is saved; `where` is the
        message."""
        self._ending = where
        try:
            yield
        finally:
            self._ending = ""

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()
        if self._ending:
            raise Interrupted(f"{self.received}; {self._ending}")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

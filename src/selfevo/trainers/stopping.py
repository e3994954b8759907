"""Ctrl-C and SIGTERM while a model is trained: the step in hand ends, and its checkpoint is kept."""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any

_SAID = "selfevo: stopping when this step is done and its checkpoint is saved; a second signal stops at once\n"


class Stopping:
    """While it is entered, the first signal to stop is only noted. The next one does what it would have done.

    Python lets only the main thread handle signals. In another thread nothing is held back.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # ignored, or not Python's: it stays so
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def again(self) -> None:
        """Sends the noted signal once more, to those who would have had it."""
        if self.number is not None:
            signal.raise_signal(self.number)

    def _note(self, number: int, frame: object) -> None:
        self.number = number
        self._restore()
        os.write(2, _SAID.encode())  # print may have been interrupted itself, and cannot be entered twice

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

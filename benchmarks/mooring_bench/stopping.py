"""A run that is asked to end, by SIGTERM as by Ctrl-C, ends with what it has."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

INTERRUPTED: Final = "interrupted"
INTERRUPTED_CODE: Final = 130


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Until the end of the block; signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C would do now: an event loop has a handler of its own. A background shell ignores Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

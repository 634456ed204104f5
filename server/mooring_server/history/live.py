"""Turns as they end, to everybody who listens: server-sent events.

    event: turn       data: a record, as JSON
    event: dropped    the listener was too slow; the stream ends
    : alive           every BEAT seconds, so that proxies keep the connection

A listener hears the API process that it is connected to. With several of them (--api-server-count), or several
servers, each has a stream of its own; the history has all turns.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from mooring_server.history.shape import turn_object
from mooring_server.record import Record

MOST: Final = 1000
"""Turns that a listener may lag behind."""
LISTENERS: Final = 64
BEAT: Final = 15.0
LOOK: Final = 0.5
"""Seconds between two looks whether the server is stopping: open streams would hold it up."""
ALIVE: Final = b": alive\n\n"
DROPPED: Final = b'event: dropped\ndata: {"reason": "more than %d turns behind: connect again"}\n\n' % MOST


class Live:
    """See the head of this file."""

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self.stopping = stopping
        self._listeners: set[asyncio.Queue[bytes]] = set()

    @property
    def full(self) -> bool:
        return len(self._listeners) >= LISTENERS

    def put(self, record: Record) -> None:
        """A sink."""
        if not self._listeners:
            return
        event = b"event: turn\ndata: " + msgspec.json.encode(turn_object(record)) + b"\n\n"
        for listener in list(self._listeners):
            try:
                listener.put_nowait(event)
            except asyncio.QueueFull:
                self._listeners.discard(listener)

    async def events(self) -> AsyncIterator[bytes]:
        """What one listener is sent."""
        listener: asyncio.Queue[bytes] = asyncio.Queue(MOST)
        self._listeners.add(listener)
        loop = asyncio.get_running_loop()
        try:
            yield ALIVE
            quiet_since = loop.time()
            while not self.stopping():
                if listener not in self._listeners:
                    yield DROPPED
                    return
                try:
                    event = await asyncio.wait_for(listener.get(), LOOK)
                except TimeoutError:
                    if loop.time() - quiet_since < BEAT:
                        continue
                    event = ALIVE
                yield event
                quiet_since = loop.time()
        finally:
            self._listeners.discard(listener)

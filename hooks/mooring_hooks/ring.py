"""Bytes through memory between two processes of one node: one writes, one reads, and neither makes a system call.

A file that both map: two counters, then SIZE bytes that are used round and round. A message is its length in four
bytes, then itself, padded to eight; where it would not fit before the end, SKIP stands there and it follows at the
beginning. The writer moves its counter when a message is whole, the reader when it has copied what was there. A ring
that is full takes nothing until the reader comes.

Each must see the other's bytes before the counter that tells of them. x86 promises that stores are seen in the order
in which they are made; other processors do not, and Python has no fence to ask them for it, so there is no ring there.
"""

import mmap
import os
import platform
import tempfile
from pathlib import Path
from typing import Final

SIZE: Final = 8 * 2**20
"""Bytes for messages: seconds of a busy server, should the reader be held up."""
WHOLE: Final = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""All pages at once: no step of the model meets one that is not there, and no process grows until it has been round."""
COUNTERS: Final = 64
"""Bytes before them; a cache line."""
WRITTEN, READ = 0, 1
"""Places of the counters: bytes since the beginning, padding and skipped ends included."""
LENGTH: Final = 4
SKIP: Final = b"\xff" * LENGTH
ORDERED: Final = ("x86_64", "amd64")
"""Machines that show stores in their order, as `platform` calls them in lower case."""


class BrokenRing(Exception):
    """What lies there was written by no ring."""


class RingWriter:
    """Makes a ring in `folder`, under a name that nobody else has. OSError where it cannot be had."""

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        if platform.machine().lower() not in ORDERED:
            raise OSError(f"not on {platform.machine()}, which may show bytes in another order than they were written")
        handle, path = tempfile.mkstemp(prefix="ring-", dir=folder)  # mode 0600
        self.name = Path(path).name
        self._size, self._written = size, 0
        try:
            os.posix_fallocate(handle, 0, COUNTERS + size)  # a page that cannot be had would kill the process later
            self._memory = mmap.mmap(handle, COUNTERS + size, WHOLE)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(handle)
        view = memoryview(self._memory)
        self._counters, self._data = view[:COUNTERS].cast("Q"), view[COUNTERS:]

    def write(self, message: bytes) -> bool:
        """Whether there was room for it."""
        length, at = len(message), self._written % self._size
        needed = _padded(LENGTH + length)
        skipped = self._size - at if at + needed > self._size else 0
        end = self._written + skipped + needed
        if end - self._counters[READ] > self._size:
            return False
        if skipped:
            self._data[at : at + LENGTH] = SKIP
            at = 0
        self._data[at : at + LENGTH + length] = length.to_bytes(LENGTH, "little") + message
        self._counters[WRITTEN] = self._written = end
        return True

    def close(self) -> None:
        _close(self._memory, self._counters, self._data)


class RingReader:
    """Opens the ring at `path` and takes its name away: what the two have mapped ends with them."""

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            self._memory = mmap.mmap(handle, 0, WHOLE)
        finally:
            os.close(handle)
            os.unlink(path)
        view = memoryview(self._memory)
        self._counters, self._data = view[:COUNTERS].cast("Q"), view[COUNTERS:]
        self._size = len(self._data)

    def read(self) -> list[bytes]:
        """All messages that are there; BrokenRing where that cannot be told."""
        written, read = self._counters[WRITTEN], self._counters[READ]
        found = []
        while read < written:
            at = read % self._size
            head = bytes(self._data[at : at + LENGTH])
            if head == SKIP:
                read += self._size - at
                continue
            length = int.from_bytes(head, "little")
            if at + LENGTH + length > self._size or written - read > self._size:
                raise BrokenRing(f"a message of {length} bytes at {at} of {self._size}")
            found.append(bytes(self._data[at + LENGTH : at + LENGTH + length]))
            read += _padded(LENGTH + length)
        self._counters[READ] = read
        return found

    def close(self) -> None:
        _close(self._memory, self._counters, self._data)


def _padded(length: int) -> int:
    return (length + 7) & ~7


def _close(memory: mmap.mmap, *views: memoryview) -> None:
    for view in views:
        view.release()
    memory.close()

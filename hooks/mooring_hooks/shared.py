"""A folder in memory for one process, which is gone when the process is.

It holds what the processes of one node hand each other. A process that is killed leaves its folder behind, and memory
with it: whoever makes the next one takes it away. Each folder has a file that its process holds locked, and the kernel
lets go of the lock with the process, whatever ended it, also where another container's process ids mean nothing.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
"""Where files lie in memory alone. In a file on a disk the kernel may hold up a store while it writes pages back."""
PREFIX: Final = "mooring-"
LOCK: Final = "lock"


class SharedFolder:
    """For this user alone, in memory where that can be."""

    def __init__(self, within: Path = MEMORY) -> None:
        usable = within if os.access(within, os.W_OK | os.X_OK) else None
        if usable is not None:
            sweep(usable)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=usable))  # mode 0700
        self._lock = _held(self.path / LOCK)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(within: Path) -> None:
    """Take away what processes of this user have left behind."""
    for folder in within.glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid == os.getuid() and _is_left(folder / LOCK):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it went away meanwhile
            continue


def _held(lock: Path) -> int:
    """Make it and hold it; nobody sees it before it is held."""
    begun = lock.with_name("begun")
    handle = os.open(begun, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    begun.rename(lock)
    return handle


def _is_left(lock: Path) -> bool:
    """Whether nobody holds it. One that is not there yet is about to be."""
    handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True

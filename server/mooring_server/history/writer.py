"""Records in from the event loop, batches out from a thread: one of these per API process.

`put` never waits: where MOST rows wait already, the record is dropped and counted. A batch goes out after EVERY
seconds or at BATCH rows. One that fails is tried again, later and later, until the store has acknowledged it; the log
says once that an outage begins and once that it has ended. A row that no store can hold is dropped alone, and counted.
"""

import secrets
import threading
import time
from collections import deque
from itertools import count
from typing import Final

from mooring_hooks.progress import say
from mooring_server import metrics
from mooring_server.history.schema import hidden
from mooring_server.history.store import REMEMBER_ERASED, Away, Row, Store
from mooring_server.record import Record

MOST: Final = 65_536
"""Rows that may wait: some 60 MB, and at ten answers a second almost two hours without a store."""
BATCH: Final = 1000
EVERY: Final = 1.0
"""Seconds."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
STOP: Final = 5.0
"""Seconds that the end of a process may wait for its rows."""
TIDY_EVERY: Final = 600.0
RETIRE_MOST: Final = 2000
SKEW: Final = 2.0
"""Seconds by which the clocks of two machines may differ: erasing takes that much more, rather than less."""


class Writer:
    """See the head of this file. Turns older than `days` are deleted; None keeps them.

    CannotServe where the store can never take a row; one that is away may come back.
    """

    def __init__(self, store: Store, days: float | None = None, most: int = MOST) -> None:
        self._store, self._days, self._most = store, days, most
        self._name, self._numbers = secrets.randbits(63), count()
        self._queue: deque[Row] = deque()
        self._batch: list[Row] = []
        self._size = BATCH
        """Rows of the batch that are written at once: fewer while one that cannot be stored is looked for."""
        self._erased: dict[str, float] = {}
        """Hash of a session -> when it was erased, as long as turns of it may come that had ended before."""
        self._down_since: float | None = None
        self._tidy_at = time.monotonic()
        try:
            store.open()
        except Away as away:  # the thread tries again
            self._failed(away)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mooring-history", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """A sink."""
        if len(self._queue) >= self._most:
            metrics.HISTORY_ROWS_LOST.inc()
            return
        self._queue.append(self._store.row(record, self._name, next(self._numbers)))
        if len(self._queue) >= BATCH and not self._wake.is_set():
            self._wake.set()

    def waiting(self) -> int:
        """Rows that no store has acknowledged yet."""
        return len(self._queue) + len(self._batch)

    def stop(self, timeout: float = STOP) -> None:
        """Write what waits, for so long; what is left is counted as lost."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive() and (left := self.waiting()):
            metrics.HISTORY_ROWS_LOST.inc(left)
            say(f"history: {left} turns are lost: {self._store.name} did not take them before the end")

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set() or self.waiting():
            self._gather()
            try:
                self._work()
            except Exception as error:  # each database has its own ways to be away, full, locked or read-only
                self._failed(error)
                if self._stop.wait(pause):
                    time.sleep(FIRST_PAUSE)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._recovered()
                pause = FIRST_PAUSE
            metrics.HISTORY_QUEUE.set(self.waiting())
        self._store.drop_connection()

    def _gather(self) -> None:
        """Take the next batch, after a wait where that makes it bigger."""
        if self._batch:
            return
        if len(self._queue) < BATCH and not self._stop.is_set():
            self._wake.wait(EVERY)
            self._wake.clear()
        self._batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
        self._size = BATCH

    def _work(self) -> None:
        """Write the batch, and tidy up a little."""
        if self._batch:
            del self._batch[: self._write(self._batch[: self._size])]
        elif self._down_since is not None:
            self._store.open()
        if not self._stop.is_set():
            self._store.scrub_again()
            self._tidy()

    def _write(self, rows: list[Row]) -> int:
        """How many of them are done with."""
        try:
            with self._store.appending() as connection:
                self._erased.update(self._store.erasures(connection))
                kept = [row for row in rows if not self._is_erased(row)]
                self._store.insert(connection, kept)
        except self._store.bad_rows as error:
            if len(rows) > 1:
                self._size = len(rows) // 2
                return 0
            self._size = BATCH
            metrics.HISTORY_ROWS_LOST.inc()
            say(f"history: a turn is lost, because no history can hold it: {error}")
        else:
            metrics.HISTORY_ROWS.inc(len(kept))
        return len(rows)

    def _is_erased(self, row: Row) -> bool:
        at = self._erased.get(hidden(row.session)) if self._erased else None
        return at is not None and row.at <= at + SKEW

    def _tidy(self) -> None:
        """Delete some of what is too old, and forget erasures that are."""
        if time.monotonic() < self._tidy_at:
            return
        now = time.time()
        self._store.forget_erasures(now - REMEMBER_ERASED)
        self._erased = {session: at for session, at in self._erased.items() if at >= now - REMEMBER_ERASED}
        if self._days is not None and self._store.retire(now - self._days * 86400, RETIRE_MOST) == RETIRE_MOST:
            self._wake.set()  # the rest follows behind the next batch
        else:
            self._tidy_at = time.monotonic() + TIDY_EVERY

    def _failed(self, error: Exception) -> None:
        metrics.HISTORY_FAILURES.inc()
        self._store.drop_connection()
        if self._down_since is None:
            self._down_since = time.monotonic()
            reason = str(error).strip() or type(error).__name__
            say(f"history: {self._store.name} takes no turns: {reason}\n  answers go on; up to {self._most} turns wait")

    def _recovered(self) -> None:
        if self._down_since is not None:
            say(f"history: {self._store.name} takes turns again, after {time.monotonic() - self._down_since:.0f} s")
            self._down_since = None

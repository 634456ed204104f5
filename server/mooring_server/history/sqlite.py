"""A history in one SQLite file, for the API processes of one machine.

Write-ahead log: readers and the writer never wait for each other, and processes take turns at writing. A commit is on
the disk before it returns (synchronous = FULL): with a batch a commit, that costs one sync a second. The log needs a
local disk: SQLite's locks do not hold on NFS.

What is deleted is overwritten with zeros, but in the log: the file and older parts of the log hold it until the log is
written back and cut off. An erasure does that at once, and where a reader is in the way, the writer does it later.
"""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from mooring_axes.errors import CannotServe
from mooring_server.history import schema
from mooring_server.history.store import ROW, Connection, Store
from mooring_server.record import Record

BUSY: Final = 5.0
"""Seconds to wait for another process's turn at writing."""
_ROW: Final = f"({', '.join('?' * len(ROW))})"
_plain = attrgetter(*schema.TURN[:-1])
_TRIGGER: Final = """
CREATE TRIGGER mooring_count_turn AFTER INSERT ON mooring_turns WHEN NEW.session <> '' BEGIN
    {count}
    VALUES (NEW.session, NEW.model, NEW.profile, NEW.arm, NEW.identity, NEW.at, NEW.at, 1,
            CASE WHEN NEW.drift IS NULL THEN 0 ELSE 1 END, COALESCE(NEW.drift, 0), NEW.drift, NEW.drift,
            NEW.measured_tokens, NEW.lifted_tokens)
    {merge};
END
"""


class SqliteStore(Store):
    dialect = schema.Dialect(
        serial="INTEGER PRIMARY KEY AUTOINCREMENT",
        trigger=(_TRIGGER,),
    )
    bad_rows = (sqlite3.DataError, sqlite3.IntegrityError, UnicodeError, OverflowError)
    table_exists = "SELECT 1 FROM sqlite_master WHERE name = 'mooring_schema'"
    begin_append = begin_change = ("BEGIN IMMEDIATE",)

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.name = path, str(path)
        self._file: tuple[int, int] | None = None
        self._scrubbed = True
        self._at_rest = False
        """Whether nobody can be writing: SQLite then needs no files beside this one."""

    def open(self) -> None:
        try:
            self.prepare()
        except (OSError, sqlite3.Error) as error:
            raise CannotServe(
                f"the history {self.path} cannot be written: {error}\n"
                "  keep it elsewhere with --history PATH, or keep none with --history off"
            ) from error

    def open_to_read(self) -> None:
        log = self.path.with_name(f"{self.path.name}-wal")
        self._at_rest = not log.exists() and not os.access(self.path.parent, os.W_OK, effective_ids=True)
        try:
            self.look()
        except sqlite3.Error as error:
            raise CannotServe(
                f"the history {self.path} cannot be read: {error}\n"
                "  of a copy, take all files whose names begin so, into a folder where files may be made"
            ) from error

    def prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        super().prepare()

    def connect(self, readonly: bool = False) -> Connection:
        mode = "ro" if readonly else "rw"  # never made here: a file without tables is of no use
        mode += "&immutable=1" if readonly and self._at_rest else ""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY, isolation_level=None
        )
        if not readonly:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                connection.execute(f"PRAGMA {pragma}")
        return cast(Connection, connection)

    def kept(self) -> Connection:
        """A file that was deleted or replaced takes rows as before, and nobody would ever see them."""
        if self._kept is not None and self._file != _identity(self.path):
            self.drop_connection()
        if self._kept is None:
            connection = super().kept()
            self._file = _identity(self.path)
            return connection
        return self._kept

    def pack(self, record: Record, writer: int, number: int) -> tuple[Any, ...]:
        *plain, projection, drift, lift, complete, finished = _plain(record)
        numbers = (value if value is not None and isfinite(value) else None for value in (projection, drift, lift))
        layers = msgspec.json.encode(record.layers).decode()
        return (writer, number, *plain, *numbers, complete, finished, layers)

    def insert_some(self, connection: Connection, packed: Sequence[tuple[Any, ...]]) -> None:
        connection.execute(
            f"INSERT INTO mooring_turns ({', '.join(ROW)}) VALUES {', '.join([_ROW] * len(packed))} "
            "ON CONFLICT (writer, number) DO NOTHING",
            tuple(chain.from_iterable(packed)),
        )

    def refuse_strangers(self, connection: Connection) -> None:
        if connection.execute("SELECT 1 FROM sqlite_master").fetchall():
            raise CannotServe(f"{self.path} is a database of something else: name another file with --history PATH")

    def scrub(self, connection: Connection) -> None:
        if not _log_cut(connection):
            self._scrubbed = False

    def scrub_again(self) -> None:
        if self._scrubbed:
            return
        with closing(self.connect()) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            self._scrubbed = True  # before: an erasure that fails in the meantime has the last word
            self.scrub(connection)


def _log_cut(connection: Connection) -> bool:
    """Write the log back and cut it off: whether that was possible. A reader of an older state forbids it."""
    try:
        ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError:  # a full disk, say: the rows are deleted, and the rest comes later
        return False
    return not busy


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino

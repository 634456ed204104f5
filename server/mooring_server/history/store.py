"""A history in a database: everything that is SQL, except for what sqlite and postgres say of themselves.

`appending` and `retire` are called by one thread and share its connection. All else opens a short one of its own, which
for reading is read-only. Whatever goes wrong is raised as the database's own exception: the writer tries again, a
route answers 503.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from mooring_axes.errors import CannotServe
from mooring_server.history import schema
from mooring_server.history.queries import Filter, Page, SessionQuery, session_list, turn_list
from mooring_server.record import Record

REMEMBER_ERASED: Final = 7 * 86400.0
"""Seconds for which turns of an erased session may still come: out of a queue, or of a client that reads slowly."""
AT_ONCE: Final = 100
"""Rows of a statement: handing over 1,000 holds the interpreter, and so the event loop, for milliseconds."""
ROW: Final = ("writer", "number", *schema.TURN)


class Away(CannotServe):
    """The database does not answer, which may pass: a server starts all the same, and its turns wait."""


class Row(NamedTuple):
    """A record on its way."""

    session: str
    at: float
    packed: Any
    """What its store's `pack` made of it, when it came: little is left for a thread that takes the interpreter."""


class Cursor(Protocol):
    description: Any
    rowcount: int

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """What both drivers have; every statement is its own transaction unless one is begun."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Cursor: ...
    def close(self) -> None: ...


class Store(ABC):
    """See the head of this file."""

    name: str
    """Where it is, without a password."""
    dialect: ClassVar[schema.Dialect]
    bad_rows: tuple[type[Exception], ...]
    """What is raised for values that no retry makes storable."""
    table_exists: ClassVar[str]
    begin_append: ClassVar[tuple[str, ...]]
    begin_change: ClassVar[tuple[str, ...]]
    """Begin a transaction that no append runs beside: so no turn slips past an erasure or a recount."""

    def __init__(self) -> None:
        self._kept: Connection | None = None
        self._erasures = 0
        """Number of the last erasure that the writer has heard of on this connection."""

    @abstractmethod
    def connect(self, readonly: bool = False) -> Connection: ...

    def row(self, record: Record, writer: int, number: int) -> Row:
        """(writer, number) tells it from every other."""
        return Row(record.session, record.at, self.pack(record, writer, number))

    def insert(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Rows that are there already are left out."""
        packed = [row.packed for row in rows]
        for first in range(0, len(packed), AT_ONCE):
            self.insert_some(connection, packed[first : first + AT_ONCE])

    @abstractmethod
    def pack(self, record: Record, writer: int, number: int) -> Any:
        """As `insert_some` takes it; on the event loop."""

    @abstractmethod
    def insert_some(self, connection: Connection, packed: Sequence[Any]) -> None:
        """In one statement, while which runs the interpreter is free."""

    @abstractmethod
    def refuse_strangers(self, connection: Connection) -> None:
        """Raise CannotServe where somebody else's data is."""

    def sql(self, statement: str) -> str:
        """With the driver's marks for `:named` parameters."""
        return statement

    @abstractmethod
    def scrub(self, connection: Connection) -> None:
        """Let what was erased go from the files, as far as the database does that at once."""

    @abstractmethod
    def open(self) -> None:
        """`prepare` at a start: CannotServe, with the way out, for whatever goes wrong; Away where that may pass."""

    @abstractmethod
    def open_to_read(self) -> None:
        """`look` for a command that writes nothing: CannotServe, with the way out, for whatever goes wrong."""

    def look(self) -> None:
        """CannotServe unless these are the tables that this Mooring reads. Changes nothing."""
        with closing(self.connect(readonly=True)) as connection:
            there = connection.execute(self.table_exists).fetchall()
            version = self._rows(connection, "SELECT version FROM mooring_schema")[0]["version"] if there else 0
        if version == 0:
            raise CannotServe(f"{self.name} holds no history: name another with --history PATH or postgresql://...")
        self._refuse_newer(version)
        if version < schema.VERSION:
            raise CannotServe(
                f"the history in {self.name} has version {version}, and this Mooring reads version {schema.VERSION}\n"
                "  start a server with it once, which makes it newer; of a copy, copy it again"
            )

    def prepare(self) -> None:
        """Make or migrate the tables. CannotServe where a newer Mooring made them."""
        with closing(self.connect()) as connection, self.transaction(connection, self.begin_change):
            version = self._version(connection)
            self._refuse_newer(version)
            self._migrate(connection, version)

    def _refuse_newer(self, version: int) -> None:
        if version > schema.VERSION:
            raise CannotServe(
                f"the history in {self.name} has version {version}, and this Mooring knows up to {schema.VERSION}\n"
                "  upgrade Mooring, or keep a history elsewhere with --history PATH, or none with --history off"
            )

    def _version(self, connection: Connection) -> int:
        if not connection.execute(self.table_exists).fetchall():
            self.refuse_strangers(connection)
            connection.execute("CREATE TABLE mooring_schema (version INTEGER NOT NULL)")
            connection.execute("INSERT INTO mooring_schema VALUES (0)")
        return int(connection.execute("SELECT version FROM mooring_schema").fetchall()[0][0])

    def _migrate(self, connection: Connection, version: int) -> None:
        for step in schema.MIGRATIONS[version:]:
            for statement in step(self.dialect):
                connection.execute(statement)
        if version < schema.VERSION:
            connection.execute(self.sql("UPDATE mooring_schema SET version = :version"), {"version": schema.VERSION})

    @contextmanager
    def transaction(self, connection: Connection, begin: Sequence[str]) -> Iterator[None]:
        try:
            for statement in begin:
                connection.execute(statement)
            yield
            connection.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # the first exception says more
                connection.execute("ROLLBACK")
            raise

    # The writer's thread.

    @contextmanager
    def appending(self) -> Iterator[Connection]:
        """What is inserted has been acknowledged when this ends."""
        connection = self.kept()
        with self.transaction(connection, self.begin_append):
            yield connection

    def erasures(self, connection: Connection) -> list[tuple[str, float]]:
        """(hash of the session, when) of those since the last call; of all that are remembered on a new connection."""
        statement = "SELECT id, session, at FROM mooring_erased WHERE id > :number ORDER BY id"
        found = self._rows(connection, statement, number=self._erasures)
        if found:
            self._erasures = found[-1]["id"]
        return [(row["session"], row["at"]) for row in found]

    def forget_erasures(self, before: float) -> None:
        """Not even a hash of an erased session stays for ever."""
        self.kept().execute(self.sql(_FORGET_ERASURES), {"before": before})

    @abstractmethod
    def scrub_again(self) -> None:
        """Where an erasure could not let go of what it deleted, because somebody was reading; never waits."""

    def retire(self, before: float, most: int) -> int:
        """Delete at most so many turns that ended before that time; how many it were."""
        connection = self.kept()
        with self.transaction(connection, self.begin_change):
            gone = self._rows(connection, _RETIRE, before=before, most=most)
            for session in {tuple(row.values()) for row in gone if row["session"]}:
                key = dict(zip(schema.KEY, session, strict=True))
                connection.execute(self.sql(_FORGET_COUNT), key)
                connection.execute(self.sql(schema.RECOUNT), key)
        return len(gone)

    def kept(self) -> Connection:
        """The writer's connection."""
        if self._kept is None:
            self.prepare()  # it may be another database than the one that went away
            self._kept, self._erasures = self.connect(), 0
        return self._kept

    def drop_connection(self) -> None:
        """Begin anew with the next call."""
        kept, self._kept = self._kept, None
        if kept is not None:
            with suppress(Exception):  # it may be broken, which is why it is dropped
                kept.close()

    # Any thread.

    def erase(self, session: str) -> int:
        """Delete all that is known of a session, here and in every queue; how many turns were there."""
        now = time.time()
        with closing(self.connect()) as connection:
            with self.transaction(connection, self.begin_change):
                gone = connection.execute(self.sql("DELETE FROM mooring_turns WHERE session = :s"), {"s": session})
                connection.execute(self.sql("DELETE FROM mooring_sessions WHERE session = :s"), {"s": session})
                note = {"s": schema.hidden(session), "at": now, "before": now - REMEMBER_ERASED}
                connection.execute(self.sql(_FORGET_ERASURES), note)
                connection.execute(self.sql("INSERT INTO mooring_erased (session, at) VALUES (:s, :at)"), note)
            self.scrub(connection)
            return gone.rowcount

    def sessions(self, query: SessionQuery) -> Page:
        """A page of sessions, each with what it ran under."""
        statement, parameters = session_list(query)
        return query.page(self._read(statement, parameters))

    def turns(self, wanted: Filter, after: int, most: int) -> list[dict[str, Any]]:
        """Turns in the order of insertion, from the one after `after` on."""
        statement, parameters = turn_list(wanted)
        return self._read(statement, parameters | {"after": after, "most": most})

    def newest(self) -> int:
        """Id of the last turn; 0 where there is none."""
        return int(self._read("SELECT COALESCE(MAX(id), 0) AS id FROM mooring_turns", {})[0]["id"])

    def trajectory(self, session: str, most: int) -> list[dict[str, Any]]:
        """The last turns of a session, oldest first."""
        statement = "SELECT * FROM mooring_turns WHERE session = :session ORDER BY id DESC LIMIT :most"
        return self._read(statement, {"session": session, "most": most})[::-1]

    # Of an experiment: `prefix` is what its arms begin with, and a session is of the arm in which it began.

    def arms_of(self, model: str, prefix: str, since: float) -> list[tuple[str, str]]:
        """(session, arm) of those that had a turn since."""
        found = self._read(
            f"SELECT session, arm {_BEGUN} AND last_at >= :since", _of_arms(model, prefix) | {"since": since}
        )
        return [(row["session"], row["arm"]) for row in found]

    def sessions_by_arm(self, model: str, prefix: str, since: float, until: float) -> dict[str, int]:
        """How many began from `since` on, before `until`."""
        statement = f"SELECT arm, COUNT(*) AS sessions {_BEGUN} AND first_at >= :since AND first_at < :until"
        found = self._read(f"{statement} GROUP BY arm", _of_arms(model, prefix) | {"since": since, "until": until})
        return {row["arm"]: int(row["sessions"]) for row in found}

    def note_weights(self, experiment: str, shares: Mapping[str, float]) -> None:
        """From now on these hold, unless they hold already."""
        note = {"experiment": experiment, "shares": json.dumps(shares, sort_keys=True), "at": time.time()}
        with closing(self.connect()) as connection, self.transaction(connection, self.begin_change):
            known = self._rows(connection, _WEIGHTS, experiment=experiment)
            if not known or known[-1]["shares"] != note["shares"]:
                statement = "INSERT INTO mooring_weights (experiment, at, shares) VALUES (:experiment, :at, :shares)"
                connection.execute(self.sql(statement), note)

    def weights_of(self, experiment: str) -> list[tuple[float, dict[str, float]]]:
        """(from when on, arm -> share of the new sessions), in the order of time."""
        found = self._read(_WEIGHTS, {"experiment": experiment})
        return [(row["at"], json.loads(row["shares"])) for row in found]

    def _read(self, statement: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        with closing(self.connect(readonly=True)) as connection:
            return self._rows(connection, statement, **parameters)

    def _rows(self, connection: Connection, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        cursor = connection.execute(self.sql(statement), parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _of_arms(model: str, prefix: str) -> dict[str, Any]:
    return {"model": model, "prefix": prefix, "length": len(prefix)}


_BEGUN: Final = """
FROM mooring_sessions AS s WHERE model = :model AND substr(arm, 1, :length) = :prefix AND NOT EXISTS (
    SELECT 1 FROM mooring_sessions AS e
    WHERE e.session = s.session AND e.model = :model AND substr(e.arm, 1, :length) = :prefix
      AND (e.first_at, e.id) < (s.first_at, s.id)
)
"""
"""The first row of every session that was randomised."""
_WEIGHTS: Final = "SELECT at, shares FROM mooring_weights WHERE experiment = :experiment ORDER BY id"
_RETIRE: Final = """
DELETE FROM mooring_turns WHERE id IN (SELECT id FROM mooring_turns WHERE at < :before ORDER BY at LIMIT :most)
RETURNING session, model, profile, arm
"""
_FORGET_ERASURES: Final = "DELETE FROM mooring_erased WHERE at < :before"
_FORGET_COUNT: Final = """
DELETE FROM mooring_sessions WHERE session = :session AND model = :model AND profile = :profile AND arm = :arm
"""

"""A history in PostgreSQL, for many servers on many machines.

Appends share an advisory lock that erasing, retiring and migrating take for themselves. A connection that hears
nothing for ten seconds is given up.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from mooring_axes.errors import CannotServe
from mooring_server.history import schema
from mooring_server.history.location import without_password
from mooring_server.history.store import ROW, Away, Connection, Store
from mooring_server.record import Record

try:
    import psycopg
except ImportError:
    psycopg = None  # type: ignore[assignment]

_LOCK: Final = 0x6D6F6F72
"""Any number, as long as every Mooring takes the same."""
_CONNECTION: Final[dict[str, Any]] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "tcp_user_timeout": 10_000,
    "application_name": "mooring",
}
_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")
_COLUMNS: Final = ", ".join(ROW)
_INSERT: Final = f"""
INSERT INTO mooring_turns ({_COLUMNS})
SELECT {_COLUMNS} FROM json_populate_recordset(NULL::mooring_turns, %s)
ORDER BY number
ON CONFLICT (writer, number) DO NOTHING
"""
# Once per statement and session: a row that is updated often in one transaction gets slower each time. Sorted: two
# batches that count the same sessions in different orders would wait for each other for ever.
_COUNT_TURNS: Final = """
CREATE FUNCTION mooring_count_turns() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    {count}
    SELECT session, model, profile, arm, MAX(identity), MIN(at), MAX(at), COUNT(*), COUNT(drift),
           COALESCE(SUM(drift), 0), MAX(drift), (ARRAY_AGG(drift ORDER BY id DESC) FILTER (WHERE drift IS NOT NULL))[1],
           SUM(measured_tokens), SUM(lifted_tokens)
    FROM fresh WHERE session <> '' GROUP BY session, model, profile, arm ORDER BY session, model, profile, arm
    {merge};
    RETURN NULL;
END $$
"""
_TRIGGER: Final = """
CREATE TRIGGER mooring_count_turns AFTER INSERT ON mooring_turns REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION mooring_count_turns()
"""


class PostgresStore(Store):
    dialect = schema.Dialect(
        serial="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        trigger=(_COUNT_TURNS, _TRIGGER),
    )
    table_exists = "SELECT 1 WHERE to_regclass('mooring_schema') IS NOT NULL"
    begin_append = ("BEGIN", f"SELECT pg_advisory_xact_lock_shared({_LOCK})")
    begin_change = ("BEGIN", f"SELECT pg_advisory_xact_lock({_LOCK})")

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self.name = url, without_password(url)
        if psycopg is None:
            raise CannotServe("a history in PostgreSQL needs a driver: pip install 'mooring[postgres]'")
        self.bad_rows = (psycopg.DataError, psycopg.IntegrityError)

    def open(self) -> None:
        try:
            self.prepare()
        except psycopg.OperationalError as error:
            raise Away(
                f"the history in {self.name} does not answer: {str(error).strip()}\n"
                "  answers go on without it, and their turns wait: is the database up, and this its address?"
            ) from None
        except psycopg.Error as error:
            raise CannotServe(
                f"the history in {self.name} cannot be opened: {str(error).strip()}\n"
                "  give its user the right to make tables, or keep none with --history off"
            ) from None

    def open_to_read(self) -> None:
        try:
            self.look()
        except psycopg.Error as error:
            raise CannotServe(f"the history in {self.name} cannot be read: {str(error).strip()}") from None

    def connect(self, readonly: bool = False) -> Connection:
        given = psycopg.conninfo.conninfo_to_dict(self._url).get("options") or ""
        options = f"{given} -c statement_timeout=30s -c default_transaction_read_only={'on' if readonly else 'off'}"
        return cast(Connection, psycopg.connect(self._url, **_CONNECTION, options=options))

    def sql(self, statement: str) -> str:
        return _PARAMETER.sub(r"%(\1)s", statement)

    def pack(self, record: Record, writer: int, number: int) -> bytes:
        return b'{"writer":%d,"number":%d,' % (writer, number) + msgspec.json.encode(record)[1:]

    def insert_some(self, connection: Connection, packed: Sequence[bytes]) -> None:
        connection.execute(_INSERT, ((b"[%s]" % b",".join(packed)).decode(),))

    def refuse_strangers(self, connection: Connection) -> None:
        """The names of our tables are ours alone."""

    def scrub(self, connection: Connection) -> None:
        """Left to autovacuum: VACUUM would rewrite the table for one session."""

    def scrub_again(self) -> None:
        """Nothing was tried."""


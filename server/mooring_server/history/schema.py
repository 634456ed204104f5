"""The tables, in SQL that SQLite and PostgreSQL both read.

    mooring_turns      one row per answer. `id` is the order of insertion, which no clock changes; (writer, number)
                       is unique, so that a batch that is tried again never doubles
    mooring_sessions   one row per session and what it ran under, kept by a trigger on mooring_turns
    mooring_erased     sessions erased lately, by hash: a writer whose queue still holds their turns drops those
    mooring_weights    what share of the new sessions each arm of an experiment got, from when on
    mooring_schema     the version, one row

A version is never edited once it is out: MIGRATIONS[n] leads from version n to n + 1.
"""

from hashlib import sha256
from typing import Final, NamedTuple

from mooring_server.record import Record

TURN: Final = tuple(Record.__dataclass_fields__)
"""Columns of a turn, by the names and in the order of a record's fields."""
KEY: Final = ("session", "model", "profile", "arm")
"""What a row of mooring_sessions is about."""


class Dialect(NamedTuple):
    """Where the two databases differ."""

    serial: str
    """A column that numbers its rows by itself."""
    trigger: tuple[str, ...]
    """Statements that run {count} ... {merge} after each insertion into mooring_turns."""


TABLES: Final = """
CREATE TABLE mooring_turns (
    id {serial},
    writer BIGINT NOT NULL,
    number BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    response TEXT NOT NULL,
    choice INTEGER NOT NULL,
    route TEXT NOT NULL,
    model TEXT NOT NULL,
    profile TEXT NOT NULL,
    arm TEXT NOT NULL,
    session TEXT NOT NULL,
    identity TEXT NOT NULL,
    turn INTEGER,
    node TEXT NOT NULL,
    parent TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    measured_tokens INTEGER NOT NULL,
    lifted_tokens INTEGER NOT NULL,
    projection DOUBLE PRECISION,
    drift DOUBLE PRECISION,
    mean_lift DOUBLE PRECISION,
    complete BOOLEAN NOT NULL,
    finished BOOLEAN NOT NULL,
    layers TEXT NOT NULL,
    UNIQUE (writer, number)
);
CREATE INDEX mooring_turns_session ON mooring_turns (session, id);
CREATE INDEX mooring_turns_at ON mooring_turns (at);
CREATE TABLE mooring_sessions (
    id {serial},
    session TEXT NOT NULL,
    model TEXT NOT NULL,
    profile TEXT NOT NULL,
    arm TEXT NOT NULL,
    identity TEXT NOT NULL,
    first_at DOUBLE PRECISION NOT NULL,
    last_at DOUBLE PRECISION NOT NULL,
    turns BIGINT NOT NULL,
    drifts BIGINT NOT NULL,
    drift_sum DOUBLE PRECISION NOT NULL,
    max_drift DOUBLE PRECISION,
    last_drift DOUBLE PRECISION,
    measured_tokens BIGINT NOT NULL,
    lifted_tokens BIGINT NOT NULL,
    UNIQUE (session, model, profile, arm)
);
CREATE INDEX mooring_sessions_last ON mooring_sessions (last_at, id);
CREATE INDEX mooring_sessions_drift ON mooring_sessions (max_drift, id);
CREATE TABLE mooring_erased (id {serial}, session TEXT NOT NULL, at DOUBLE PRECISION NOT NULL)
"""

COUNT: Final = """
INSERT INTO mooring_sessions (session, model, profile, arm, identity, first_at, last_at, turns, drifts, drift_sum,
                              max_drift, last_drift, measured_tokens, lifted_tokens)
"""
MERGE: Final = """
ON CONFLICT (session, model, profile, arm) DO UPDATE SET
    identity = excluded.identity,
    first_at = CASE WHEN excluded.first_at < mooring_sessions.first_at THEN excluded.first_at
                    ELSE mooring_sessions.first_at END,
    last_at = CASE WHEN excluded.last_at > mooring_sessions.last_at THEN excluded.last_at
                   ELSE mooring_sessions.last_at END,
    turns = mooring_sessions.turns + excluded.turns,
    drifts = mooring_sessions.drifts + excluded.drifts,
    drift_sum = mooring_sessions.drift_sum + excluded.drift_sum,
    max_drift = CASE WHEN mooring_sessions.max_drift >= excluded.max_drift OR excluded.max_drift IS NULL
                     THEN mooring_sessions.max_drift ELSE excluded.max_drift END,
    last_drift = COALESCE(excluded.last_drift, mooring_sessions.last_drift),
    measured_tokens = mooring_sessions.measured_tokens + excluded.measured_tokens,
    lifted_tokens = mooring_sessions.lifted_tokens + excluded.lifted_tokens
"""
RECOUNT: Final = f"""
{COUNT}
SELECT session, model, profile, arm, MAX(identity), MIN(at), MAX(at), COUNT(*), COUNT(drift), COALESCE(SUM(drift), 0),
       MAX(drift), (SELECT drift FROM mooring_turns AS late WHERE late.session = :session AND late.model = :model
                    AND late.profile = :profile AND late.arm = :arm AND drift IS NOT NULL ORDER BY id DESC LIMIT 1),
       SUM(measured_tokens), SUM(lifted_tokens)
FROM mooring_turns WHERE session = :session AND model = :model AND profile = :profile AND arm = :arm
GROUP BY session, model, profile, arm
"""
"""A session's row from its turns, after some of these were retired. No row where none is left."""


def _first(dialect: Dialect) -> list[str]:
    tables = TABLES.format(serial=dialect.serial)
    return [*tables.split(";"), *(statement.format(count=COUNT, merge=MERGE) for statement in dialect.trigger)]


def _weights(dialect: Dialect) -> list[str]:
    return [
        f"CREATE TABLE mooring_weights (id {dialect.serial}, experiment TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, "
        "shares TEXT NOT NULL)"
    ]


MIGRATIONS: Final = [_first, _weights]
VERSION: Final = len(MIGRATIONS)


def hidden(session: str) -> str:
    """What is kept of the id of an erased session."""
    return sha256(session.encode("utf-8", "surrogatepass")).hexdigest()

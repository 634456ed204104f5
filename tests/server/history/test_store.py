"""What a history keeps and tells, in SQLite and in PostgreSQL alike."""

import base64
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from histories import all_sessions, append, record
from mooring_axes.errors import CannotServe
from mooring_server.history import schema
from mooring_server.history.location import open_store
from mooring_server.history.queries import BadCursor, Filter, SessionQuery
from mooring_server.history.shape import turn_object, turn_row
from mooring_server.history.sqlite import SqliteStore
from mooring_server.history.store import Away, Store
from mooring_server.record import Record

NASTY = ["'; DROP TABLE mooring_turns; --", "<script>alert(1)</script>", 'a"b', "ünï\u2028", "%s %(s)s :s ?", "a/b c"]


def many(count: int, seed: int = 1) -> list[Record]:
    """Turns of some sessions under two profiles, some without a drift."""
    pick = random.Random(seed)
    return [
        record(
            at=1000.0 + pick.randrange(50),
            session=f"s{pick.randrange(20)}",
            profile=pick.choice(["off", "strong"]),
            drift=pick.choice([None, pick.uniform(-1, 2)]),
            measured_tokens=pick.randrange(20),
            lifted_tokens=pick.randrange(5),
        )
        for _ in range(count)
    ]


def expected(records: list[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the sessions of these turns must say, worked out from the turns."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for key in {(r.session, r.profile) for r in records}:
        turns = [r for r in records if (r.session, r.profile) == key]
        drifts = [r.drift for r in turns if r.drift is not None]
        found[key] = {
            "first_at": min(r.at for r in turns),
            "last_at": max(r.at for r in turns),
            "turns": len(turns),
            "drifts": len(drifts),
            "drift_sum": pytest.approx(sum(drifts)),
            "max_drift": max(drifts, default=None),
            "last_drift": drifts[-1] if drifts else None,
            "measured_tokens": sum(r.measured_tokens for r in turns),
            "lifted_tokens": sum(r.lifted_tokens for r in turns),
        }
    return found


def told(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    left_out = ("id", "session", "model", "profile", "arm", "identity")
    return {
        (row["session"], row["profile"]): {name: row[name] for name in row if name not in left_out}
        for row in all_sessions(store)
    }


def test_a_turn_comes_back_as_it_was_given(store: Store) -> None:
    full = record(session="a", node="n", parent="p", choice=2, arm="b", complete=False, finished=False)
    empty = record(session="a", turn=None, projection=None, drift=None, mean_lift=None, response="", layers={})
    append(store, [full, empty])
    assert [turn_row(row) for row in store.trajectory("a", 10)] == [turn_object(full), turn_object(empty)]


def test_numbers_that_are_none_are_kept_as_null(store: Store) -> None:
    append(store, [record(drift=float("nan"), projection=float("inf"), mean_lift=float("-inf"))])
    (turn,) = store.trajectory("s", 10)
    assert turn["drift"] is turn["projection"] is turn["mean_lift"] is None


def test_sessions_add_up_their_turns(store: Store) -> None:
    records = many(300)
    for start in range(0, 300, 70):
        append(store, records[start : start + 70], first=start)
    assert told(store) == expected(records)


def test_a_batch_that_is_tried_again_never_doubles(store: Store) -> None:
    records = many(50)
    append(store, records[:30])
    append(store, records)  # the first 30 were acknowledged, and the answer to that was lost
    append(store, records)
    assert told(store) == expected(records)
    assert sum(len(store.trajectory(f"s{i}", 1000)) for i in range(20)) == 50


def test_equal_ids_of_responses_are_not_one_turn(store: Store) -> None:
    append(store, [record(response="chatcmpl-same")] * 2)  # a client may send one X-Request-Id twice
    append(store, [record(response="chatcmpl-same")], writer=2)
    assert len(store.trajectory("s", 10)) == 3


def test_turns_without_a_session_are_kept_and_are_no_session(store: Store) -> None:
    append(store, [record(session="", identity="none")] * 3)
    assert not all_sessions(store)
    assert len(store.turns(Filter(), 0, 10)) == 3


@pytest.mark.parametrize("order", ["last", "drift"])
def test_pages_hold_every_session_once_and_in_order(store: Store, order: str) -> None:
    records = many(300)  # 40 sessions and profiles, whose times are often equal
    append(store, records)
    rows = all_sessions(store, order=order, limit=7)
    column = {"last": "last_at", "drift": "max_drift"}[order]
    values = [row[column] for row in rows]
    assert values == sorted(values, reverse=True)
    wanted = {key for key, session in expected(records).items() if order == "last" or session["max_drift"] is not None}
    assert sorted((row["session"], row["profile"]) for row in rows) == sorted(wanted)


def test_a_page_ends_where_the_next_begins_though_sessions_come_in_between(store: Store) -> None:
    append(store, [record(session=f"s{i}", at=1000.0 + i) for i in range(10)])
    first = store.sessions(SessionQuery(limit=5))
    append(store, [record(session="new", at=2000.0)], first=10)
    second = store.sessions(SessionQuery(limit=5, cursor=first.next))
    assert [row["session"] for row in [*first.rows, *second.rows]] == [f"s{9 - i}" for i in range(10)]
    assert second.next is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(profile="off"), {"a"}),
        (Filter(model="other"), {"b"}),
        (Filter(arm="x"), {"c"}),
        (Filter(since=2000.0), {"b", "c"}),
        (Filter(until=2000.0), {"a", "d"}),
        (Filter(since=1000.5, until=2500.0), {"b", "d"}),
        (Filter(min_drift=0.5), {"c"}),
        (Filter(session="d", profile="strong"), {"d"}),
        (Filter(profile="' OR 1=1 --"), set()),
    ],
)
def test_sessions_are_filtered(store: Store, wanted: Filter, found: set[str]) -> None:
    append(
        store,
        [
            record(session="a", at=1000.0, profile="off"),
            record(session="b", at=2000.0, model="other"),
            record(session="c", at=3000.0, arm="x", drift=0.5),
            record(session="d", at=1000.0),
            record(session="d", at=1999.0),
        ],
    )
    assert {row["session"] for row in all_sessions(store, filter=wanted)} == found


@pytest.mark.parametrize("cursor", ["", "x", "é", "W10=", "bnVsbA==", '["drift", 1, 1]', '["last", NaN, 1]', "[" * 999])
def test_a_cursor_that_no_page_gave_out_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursor, match="take `next` of the page before"):
        store.sessions(SessionQuery(cursor=cursor))
    with pytest.raises(BadCursor, match="take `next` of the page before"):
        store.sessions(SessionQuery(cursor=base64.urlsafe_b64encode(cursor.encode()).decode()))


def test_ids_are_data_and_nothing_else(store: Store) -> None:
    append(store, [record(session=name) for name in NASTY])
    assert {row["session"] for row in all_sessions(store)} == set(NASTY)
    for name in NASTY:
        assert len(store.trajectory(name, 10)) == 1
        assert store.erase(name) == 1
    assert not all_sessions(store)


def test_erasing_leaves_the_others_and_says_how_many_it_were(store: Store) -> None:
    records = many(100)
    append(store, records)
    gone = [r for r in records if r.session == "s3"]
    assert store.erase("s3") == len(gone) > 0
    assert store.erase("s3") == store.erase("never seen") == 0
    assert told(store) == expected([r for r in records if r.session != "s3"])


def test_what_is_erased_is_no_longer_in_the_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "history.sqlite")
    append(store, [record(session="alice-4711", response="chatcmpl-alice")])
    append(store, many(50), first=1)
    files = list(tmp_path.iterdir())
    assert any(b"alice" in file.read_bytes() for file in files)
    store.erase("alice-4711")
    assert not any(b"alice" in file.read_bytes() for file in files)
    store.drop_connection()


def test_turns_are_retired_by_age_a_few_at_a_time(store: Store) -> None:
    records = many(300)
    append(store, records)
    old = sum(r.at < 1025.0 for r in records)
    counts = [store.retire(1025.0, 60) for _ in range(old // 60 + 2)]
    assert sum(counts) == old and max(counts) == 60 and counts[-1] == 0
    assert told(store) == expected([r for r in records if r.at >= 1025.0])


def test_a_clock_that_steps_back_changes_no_order(store: Store) -> None:
    records = [record(session="c", at=at, drift=drift) for at, drift in ((5000.0, 0.1), (1000.0, 0.9), (1001.0, 0.3))]
    append(store, records)
    append(store, [record(session="d", at=4000.0)], first=3)
    assert [turn["drift"] for turn in store.trajectory("c", 10)] == [0.1, 0.9, 0.3]
    rows = {row["session"]: row for row in all_sessions(store, limit=1)}
    assert list(rows) == ["c", "d"]
    assert (rows["c"]["first_at"], rows["c"]["last_at"], rows["c"]["last_drift"]) == (1000.0, 5000.0, 0.3)


def test_the_last_turns_of_a_long_session_are_told_oldest_first(store: Store) -> None:
    append(store, [record(turn=i) for i in range(20)])
    assert [turn["turn"] for turn in store.trajectory("s", 5)] == [15, 16, 17, 18, 19]


def test_a_newer_history_is_refused_with_the_way_out(store: Store, location: str) -> None:
    with closing(store.connect()) as connection:
        connection.execute(f"UPDATE mooring_schema SET version = {schema.VERSION + 1}")
    again = open_store(location)
    assert again is not None
    with pytest.raises(CannotServe, match=r"version 3, and this Mooring knows up to 2\n  upgrade .*--history PATH"):
        again.open()


def test_an_older_history_becomes_a_newer_one_and_keeps_its_turns(
    store: Store, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, [record()])
    steps = [*schema.MIGRATIONS, lambda dialect: ["ALTER TABLE mooring_turns ADD COLUMN mood TEXT"]]
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    monkeypatch.setattr(schema, "VERSION", len(steps))
    again = open_store(location)
    assert again is not None
    again.open()
    again.open()
    assert [turn["mood"] for turn in again.trajectory("s", 10)] == [None]


def test_reading_cannot_write(store: Store) -> None:
    with closing(store.connect(readonly=True)) as connection, pytest.raises(Exception, match="read-?only"):
        connection.execute("DELETE FROM mooring_turns")


def test_files_that_are_no_history_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Buy bread. " * 500)
    with pytest.raises(CannotServe, match="not a database(.|\n)*--history PATH"):
        SqliteStore(text).open()
    assert text.read_text().startswith("Buy bread")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE sessions (id)")
    with pytest.raises(CannotServe, match="a database of something else"):
        SqliteStore(tmp_path / "other.db").open()
    with pytest.raises(CannotServe, match="cannot be written"):
        SqliteStore(Path("/proc/history.sqlite")).open()
    with pytest.raises(CannotServe, match="cannot be written"):
        SqliteStore(tmp_path).open()


def test_a_history_is_its_owners_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "deep" / "er" / "history.sqlite")
    append(store, [record()])
    assert store.path.stat().st_mode & 0o777 == 0o600
    store.drop_connection()


def test_a_database_that_is_not_there_is_refused_without_its_password() -> None:
    store = open_store("postgresql://me:s3cret@127.0.0.1:1/nowhere")
    assert store is not None
    with pytest.raises(Away, match="does not answer(.|\n)*is the database up") as refusal:
        store.open()
    assert "s3cret" not in str(refusal.value) and "me:***@127.0.0.1" in str(refusal.value)


def test_a_record_has_a_column_for_everything(store: Store) -> None:
    append(store, [replace(record(), tokens=7)])
    (row,) = store.turns(Filter(), 0, 10)
    assert set(row) == {"id", "writer", "number", *Record.__dataclass_fields__}

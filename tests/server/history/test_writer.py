"""Between the event loop and a database that may be slow, full, away or gone."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from histories import all_sessions, counted, eventually, record
from mooring_server.history import writer as module
from mooring_server.history.location import open_store
from mooring_server.history.queries import Filter
from mooring_server.history.store import Connection, Row, Store
from mooring_server.history.writer import BATCH, Writer
from postgres import Postgres

Begin = Callable[..., Writer]
TESTS = Path(__file__).parents[2]
FEEDER = """
import sys, time
from prometheus_client import REGISTRY
from histories import counted, record
from mooring_server.history.location import open_store
from mooring_server.history.writer import Writer
writer = Writer(open_store(sys.argv[1]))
for number in range(10**9):
    writer.put(record(session=f"s{number % 100}", turn=number))
    if number % 20 == 0:
        print(int(counted("mooring_history_rows_total")), flush=True)
        time.sleep(0.005)
"""
"""A process that says, again and again, how many rows have been acknowledged."""


@pytest.fixture
def begin(store: Store) -> Iterator[Begin]:
    """Writers that end with the test."""
    begun: list[Writer] = []

    def one(**options: object) -> Writer:
        begun.append(Writer(store, **options))  # type: ignore[arg-type]
        return begun[-1]

    yield one
    for writer in begun:
        writer.stop(1.0)


class Counts:
    """How far the counters have moved since this was made."""

    def __init__(self) -> None:
        self._start = {name: counted(f"mooring_history_{name}_total") for name in ("rows", "rows_lost", "failures")}

    def __getattr__(self, name: str) -> float:
        return counted(f"mooring_history_{name}_total") - self._start[name]


def kept(store: Store) -> int:
    return len(store.turns(Filter(), 0, 10**6))


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Another process is in the middle of a change."""
    with closing(store.connect()) as connection, store.transaction(connection, store.begin_change):
        yield


def test_what_is_put_is_there_and_counted(store: Store, begin: Begin) -> None:
    counts, writer = Counts(), begin()
    for number in range(3 * BATCH + 7):
        writer.put(record(turn=number))
    eventually(lambda: counts.rows == 3 * BATCH + 7)
    assert [turn["turn"] for turn in store.trajectory("s", 10**6)] == list(range(3 * BATCH + 7))
    assert writer.waiting() == counts.rows_lost == counts.failures == 0


def test_ten_thousand_sessions_at_once(store: Store, begin: Begin) -> None:
    counts, writer = Counts(), begin()
    for turn in (1, 2):
        for number in range(10_000):
            writer.put(record(session=f"s{number}", turn=turn, at=1000.0 + turn))
    eventually(lambda: counts.rows == 20_000)
    rows = all_sessions(store, limit=1000)
    assert len({row["session"] for row in rows}) == len(rows) == 10_000
    assert {row["turns"] for row in rows} == {2}


def test_a_put_never_waits_and_beyond_the_bound_is_dropped_and_counted(store: Store, begin: Begin) -> None:
    counts, writer = Counts(), begin(most=500)
    with locked(store):
        for number in range(2000):
            before = time.perf_counter()
            writer.put(record(turn=number))
            assert time.perf_counter() - before < 1.0  # a database that is locked answers after five
        held = 2000 - counts.rows_lost
        assert 500 <= held <= 500 + BATCH and counts.rows == 0
    eventually(lambda: counts.rows == held)
    assert kept(store) == held


def test_the_end_of_a_process_writes_what_waits(store: Store) -> None:
    counts, writer = Counts(), Writer(store)
    for number in range(5000):
        writer.put(record(turn=number))
    writer.stop()
    assert kept(store) == counts.rows == 5000


def test_the_end_of_a_process_waits_only_so_long(
    store: Store, begin: Begin, capfd: pytest.CaptureFixture[str]
) -> None:
    counts, writer = Counts(), begin()
    with locked(store):
        writer.put(record())
        before = time.monotonic()
        writer.stop(0.5)
        assert time.monotonic() - before < 5
    assert counts.rows_lost == 1 and "1 turns are lost" in capfd.readouterr().err


def test_a_turn_that_no_history_can_hold_is_dropped_alone(
    store: Store, begin: Begin, capfd: pytest.CaptureFixture[str]
) -> None:
    counts, writer = Counts(), begin()
    for number in range(100):
        writer.put(record(model=None if number == 37 else "m"))
    eventually(lambda: counts.rows + counts.rows_lost == 100)
    assert counts.rows == kept(store) == 99 and counts.rows_lost == 1
    assert "a turn is lost, because no history can hold it" in capfd.readouterr().err


def test_what_waits_behind_such_a_turn_goes_out_in_whole_batches_again(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    insert = store.insert

    def noted(connection: Connection, rows: Sequence[Row]) -> None:
        sizes.append(len(rows))
        insert(connection, rows)

    monkeypatch.setattr(store, "insert", noted)
    counts, writer = Counts(), begin()
    with locked(store):
        writer.put(record())  # the writer waits with this one, and the others become one batch
        eventually(lambda: writer.waiting() == 1 and not writer._queue)
        for number in range(BATCH):
            writer.put(record(model=None if number in (37, 38) else "m"))
    eventually(lambda: counts.rows + counts.rows_lost == BATCH + 1)
    assert counts.rows_lost == 2 and BATCH - 39 in sizes
    assert len(sizes) < 2 + 2 * 2 * BATCH.bit_length()  # both were found by halving


def test_erasing_takes_what_waits_in_a_queue_too(store: Store, begin: Begin) -> None:
    counts, writer = Counts(), begin()
    now = time.time()
    writer.put(record(session="kept", at=now))
    eventually(lambda: counts.rows == 1)
    for number in range(3 * BATCH):
        writer.put(record(session=("gone", "kept")[number % 2], at=now))
    assert store.erase("gone") >= 0
    writer.put(record(session="gone", at=now + 60))  # said after it was erased
    eventually(lambda: writer.waiting() == 0)
    assert {row["session"]: row["turns"] for row in all_sessions(store)} == {"kept": 1 + 3 * BATCH // 2, "gone": 1}


def test_a_turn_that_ended_before_its_session_was_erased_is_dropped_however_late_it_comes(
    store: Store, begin: Begin, location: str
) -> None:
    counts, writer, ended = Counts(), begin(), time.time()
    store.erase("gone")
    writer.put(record(session="other"))
    eventually(lambda: counts.rows == 1 and writer.waiting() == 0)
    writer.put(record(session="gone", at=ended))  # its client has read slowly
    writer.put(record(session="other"))
    eventually(lambda: counts.rows == 2)
    again = open_store(location)
    assert again is not None
    restarted = Writer(again)
    restarted.put(record(session="gone", at=ended))
    restarted.put(record(session="other"))
    restarted.stop()
    assert counts.rows == 3
    assert [row["session"] for row in all_sessions(store)] == ["other"]


def remembered(store: Store) -> int:
    with closing(store.connect(readonly=True)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM mooring_erased").fetchall()[0][0])


def test_erased_sessions_are_forgotten_after_a_week_also_where_turns_are_kept_for_ever(
    store: Store, begin: Begin
) -> None:
    for name in ("old", "new"):
        store.erase(name)
    with closing(store.connect()) as connection:
        connection.execute("UPDATE mooring_erased SET at = at - 8 * 86400 WHERE id = 1")
    writer = begin(days=None)
    eventually(lambda: remembered(store) == 1)
    writer.put(record(session="new", at=time.time() - 60))
    writer.put(record(session="old", at=time.time() - 60))
    eventually(lambda: kept(store) == 1)
    assert [row["session"] for row in all_sessions(store)] == ["old"]


def test_what_is_erased_beside_a_reader_leaves_the_file_once_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_server.history.sqlite.BUSY", 0.1)
    store = open_store(str(tmp_path / "history.sqlite"))
    assert store is not None

    def held() -> bool:
        return any(b"alice" in file.read_bytes() for file in tmp_path.iterdir())

    counts, writer = Counts(), Writer(store)
    writer.put(record(session="alice-4711"))
    eventually(lambda: counts.rows == 1)
    with closing(store.connect(readonly=True)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT COUNT(*) FROM mooring_turns").fetchall() == [(1,)]
        assert store.erase("alice-4711") == 1
        writer.put(record(session="bob"))
        eventually(lambda: counts.rows == 2)  # the reader is in nobody's way
        assert held()
    eventually(lambda: not held())
    assert counts.failures == 0
    writer.stop()


def test_turns_are_retired_while_others_are_written(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETIRE_MOST", 100)
    counts, writer = Counts(), Writer(store)
    for number in range(1000):
        writer.put(record(at=time.time() - (40 if number % 2 else 20) * 86400))
    writer.stop()
    assert counts.rows == 1000
    begin(days=30.0).put(record(at=time.time()))
    eventually(lambda: kept(store) == 501)


def test_a_database_that_another_process_holds_is_tried_again(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if store.name.startswith("postgres"):
        pytest.skip("PostgreSQL makes the writer wait, and says nothing")
    monkeypatch.setattr("mooring_server.history.sqlite.BUSY", 0.1)
    counts, writer = Counts(), begin()
    with locked(store):
        writer.put(record())
        eventually(lambda: counts.failures >= 3)
    eventually(lambda: counts.rows == 1)
    said = capfd.readouterr().err
    assert said.count("takes no turns: database is locked") == said.count("takes turns again") == 1


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond that size: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_that_was_acknowledged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path / "history.sqlite"))
    assert store is not None
    counts, writer = Counts(), Writer(store)
    put = 0
    with full_disk(1_000_000):
        while counts.failures < 3:
            for _ in range(100):
                writer.put(record(turn=(put := put + 1)))
            time.sleep(0.01)
        acknowledged = int(counts.rows)
        assert 0 < acknowledged < put
        assert kept(store) == acknowledged
    eventually(lambda: counts.rows == put)
    assert [turn["turn"] for turn in store.trajectory("s", put)] == list(range(1, put + 1))
    assert counts.rows_lost == 0
    said = capfd.readouterr().err
    assert 1 <= said.count("takes no turns") == said.count("takes turns again") < counts.failures
    writer.stop()


def test_a_file_that_somebody_deletes_is_made_anew(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "history.sqlite"))
    assert store is not None
    counts, writer = Counts(), Writer(store)
    writer.put(record(session="before"))
    eventually(lambda: counts.rows == 1)
    for file in tmp_path.iterdir():
        file.unlink()
    writer.put(record(session="after"))
    eventually(lambda: counts.rows == 2)
    assert [row["session"] for row in all_sessions(store)] == ["after"]
    writer.stop()


def test_a_database_restarted_in_mid_load_loses_nothing(
    postgres: Postgres, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(postgres.database())
    assert store is not None
    counts, writer, put = Counts(), Writer(store), 0
    ending = threading.Event()

    def load() -> None:
        nonlocal put
        while not ending.is_set():
            for _ in range(20):
                writer.put(record(session=f"s{put % 50}", turn=(put := put + 1)))
            time.sleep(0.005)

    feeding = threading.Thread(target=load)
    feeding.start()
    eventually(lambda: counts.rows > 100)
    postgres.stop("immediate")
    eventually(lambda: counts.failures >= 2)
    with pytest.raises(Exception, match="refused|closed|recovery"):
        kept(store)
    postgres.start()
    eventually(lambda: writer.waiting() < 500)
    ending.set()
    feeding.join()
    writer.stop(20)
    assert counts.rows == put and counts.rows_lost == 0
    turns = [turn["turn"] for turn in store.turns(Filter(), 0, 10**6)]
    assert sorted(turns) == list(range(1, put + 1))
    assert sum(row["turns"] for row in all_sessions(store)) == put
    said = capfd.readouterr().err
    assert said.count("takes no turns") == said.count("takes turns again") == 1


def test_a_database_that_is_away_at_the_start_is_told_at_once_and_so_is_its_return(
    postgres: Postgres, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before any turn has come: the one who starts a server learns of a wrong address there and then."""
    store = open_store(postgres.database())
    assert store is not None
    postgres.stop("immediate")
    try:
        writer = Writer(store)
        said = capfd.readouterr().err
        assert said.count("takes no turns") == 1 and "is the database up, and this its address?" in said
    finally:
        postgres.start()
    eventually(lambda: "takes turns again" in capfd.readouterr().err)
    counts = Counts()
    writer.put(record())
    writer.stop()
    assert counts.rows == 1 and counts.failures == 0


def test_a_process_that_is_killed_keeps_what_was_acknowledged(store: Store, location: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(TESTS)])}
    command = [sys.executable, "-c", FEEDER, location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as feeder:
        assert feeder.stdout is not None
        acknowledged = 0
        while acknowledged < 2500:
            acknowledged = int(feeder.stdout.readline())
        feeder.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, feeder.stdout.read().split())])
    eventually(lambda: kept(store) >= acknowledged, 5)  # PostgreSQL ends what the dead client had begun
    turns = [turn["turn"] for turn in store.turns(Filter(), 0, 10**6)]
    assert turns == list(range(len(turns))) and acknowledged <= len(turns) <= acknowledged + 2 * BATCH
    assert sum(row["turns"] for row in all_sessions(store)) == len(turns)

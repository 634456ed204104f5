"""`mooring history export`, from both kinds of history, while they are written."""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from histories import append, eventually, record
from mooring_server.cli import run
from mooring_server.history import export as module
from mooring_server.history import schema
from mooring_server.history.queries import Filter
from mooring_server.history.shape import turn_object
from mooring_server.history.sqlite import SqliteStore
from mooring_server.history.store import Store
from mooring_server.history.writer import Writer
from mooring_server.record import Record
from postgres import Postgres

NASTY = ['=HYPERLINK("http://x")', 'a"b', "a,b", "a;b", "a\u2028b", "<i>", "ünï"]


def exported(location: str, out: Path, *arguments: str) -> int:
    return run(["history", "export", "--history", location, "--out", str(out), *arguments])


def test_csv_holds_every_value_as_it_was_kept(store: Store, location: str, tmp_path: Path) -> None:
    turns = [record(session=name, turn=None, drift=None, finished=False) for name in NASTY]
    append(store, turns)
    assert exported(location, tmp_path / "turns.csv", "--format", "csv") == 0
    with (tmp_path / "turns.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["session"] for row in rows] == NASTY
    for row, turn in zip(rows, turns, strict=True):
        told = turn_object(turn)
        assert set(row) == {"id", *told}
        assert json.loads(row["layers"]) == told["layers"]
        assert (row["turn"], row["drift"], row["complete"], row["finished"]) == ("", "", "true", "false")
        assert float(row["projection"]) == turn.projection and float(row["at"]) == turn.at


def test_parquet_holds_typed_columns(
    store: Store, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(module, "CHUNK", 3)
    turns = [record(session=name, turn=None, drift=None, finished=False) for name in NASTY]
    append(store, turns)
    assert exported(location, tmp_path / "turns.parquet", "--format", "parquet") == 0
    table = parquet.read_table(tmp_path / "turns.parquet")
    assert table.column_names == ["id", *Record.__dataclass_fields__]
    for row, turn in zip(table.to_pylist(), turns, strict=True):
        layers = {str(layer.pop("layer")): layer for layer in row.pop("layers")}
        assert row | {"layers": layers} == turn_object(turn) | {"id": row["id"]}


def test_filters_leave_out_the_rest(store: Store, location: str, tmp_path: Path) -> None:
    append(store, [record(session=f"s{i}", at=1_790_000_000.0 + i * 86400, drift=i / 10) for i in range(10)])
    arguments = ["--since", "2026-09-23", "--until", "1790600000", "--min-drift", "0.35", "--profile", "strong"]
    assert exported(location, tmp_path / "out.csv", "--format", "csv", *arguments) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["session"] for row in csv.DictReader(file)] == ["s4", "s5", "s6"]


def test_an_export_while_servers_write_is_whole_and_ends(
    store: Store, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 200)
    writer, put = Writer(store), 0
    chunks = store.turns

    def more(wanted: Filter, after: int, most: int) -> list[dict[str, object]]:
        nonlocal put
        for _ in range(200):  # faster than they are read
            writer.put(record(turn=(put := put + 1)))
        eventually(lambda: writer.waiting() == 0)
        return chunks(wanted, after, most)

    for _ in range(500):
        writer.put(record(turn=(put := put + 1)))
    eventually(lambda: writer.waiting() == 0)
    monkeypatch.setattr(store, "turns", more)
    assert module.export(store, Filter(), "csv", tmp_path / "out.csv") == 500
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [int(row["turn"]) for row in csv.DictReader(file)] == list(range(1, 501))
    writer.stop()


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may write nothing."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_copy_in_a_folder_where_nothing_may_be_written_is_exported() -> None:
    with tempfile.TemporaryDirectory() as made:  # the folders of tests are their owner's alone
        folder, out = Path(made) / "copy", Path(made) / "out"
        folder.mkdir()
        out.mkdir()
        store = SqliteStore(folder / "history.sqlite")
        append(store, [record(session=name) for name in NASTY])
        store.drop_connection()
        for path, mode in ((store.path, 0o444), (folder, 0o555), (Path(made), 0o755), (out, 0o777)):
            path.chmod(mode)
        with nobody():
            assert exported(str(store.path), out / "turns.csv", "--format", "csv") == 0
        with (out / "turns.csv").open(newline="", encoding="utf-8") as file:
            assert [row["session"] for row in csv.DictReader(file)] == NASTY
        assert [path.name for path in folder.iterdir()] == ["history.sqlite"]
        folder.chmod(0o755)


def test_an_export_changes_nothing_and_reads_only_its_own_version(
    store: Store, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append(store, [record()])
    version = schema.VERSION
    for known, says in ((version + 1, "start a server with it once"), (version - 1, "upgrade Mooring")):
        monkeypatch.setattr(schema, "VERSION", known)
        assert exported(location, tmp_path / "out.csv", "--format", "csv") == 2
        said = capsys.readouterr().err
        assert f"has version {version}" in said and says in said
    with closing(store.connect()) as connection:
        assert connection.execute("SELECT version FROM mooring_schema").fetchall() == [(version,)]
    assert not (tmp_path / "out.csv").exists()


def test_a_database_that_holds_no_history_is_left_as_it_is(
    postgres: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, text = tmp_path / "empty.sqlite", tmp_path / "notes.txt"
    empty.touch()
    text.write_text("Buy bread. " * 500)
    for location, says in ((postgres.database(), "holds no history"), (str(empty), "holds no history"),
                           (str(text), "not a database"), ("postgresql://me@127.0.0.1:1/x", "refused")):  # fmt: skip
        assert exported(location, tmp_path / "out.csv", "--format", "csv") == 2
        assert says in capsys.readouterr().err
    assert empty.stat().st_size == 0


def test_what_cannot_be_exported_says_why(
    store: Store, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert run(["history", "export", *arguments]) == 2
        return capsys.readouterr().err

    out = tmp_path / "out"
    assert "there is no history" in said("--format", "csv", "--out", str(out), "--history", str(tmp_path / "none"))
    assert "there is no history" in said("--format", "csv", "--out", str(out), "--history", "off")
    somewhere = str(tmp_path / "nowhere" / "out.csv")
    assert "cannot be written" in said("--format", "csv", "--out", somewhere, "--history", location)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    needs = said("--format", "parquet", "--out", str(out), "--history", location)
    assert "pip install 'mooring[parquet]'" in needs
    assert not out.exists() and not list(tmp_path.glob(".out*"))
    with pytest.raises(SystemExit):
        run(["history", "export", "--format", "csv", "--out", str(out), "--since", "yesterday"])
    assert "--since" in capsys.readouterr().err

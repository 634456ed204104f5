"""`mooring history export`: turns in the order in which they were kept, as CSV or Parquet. Servers may go on writing:
what they add after the export has begun is left out. Nothing is written to the history, not even a newer form of it.

CSV: RFC 4180, UTF-8, an empty field for null, `layers` as JSON. Values are as they were kept: a session's id is
whatever a client sent, so open the file as data, not as formulas. Parquet: typed columns, `layers` as a list.
"""

import argparse
import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import msgspec

from mooring_axes.errors import CannotServe
from mooring_server.history.location import HISTORY_VARIABLE, default_location, open_store
from mooring_server.history.queries import Filter
from mooring_server.history.schema import TURN
from mooring_server.history.shape import LAYER, turn_row
from mooring_server.history.store import Store
from mooring_server.record import Record
from mooring_server.sessions import normalised

CHUNK: Final = 5000
"""Turns that are held at a time."""
COLUMNS: Final = ("id", *TURN)
_PLAIN: Final = {name: (get_args(kind) or (kind,))[0] for name, kind in get_type_hints(Record).items()}
Turns = Sequence[dict[str, Any]]
Write = Callable[[Turns], None]


def history(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = _parser().parse_args(list(arguments))
    wanted = Filter(
        session=None if options.session is None else normalised(options.session),
        profile=options.profile,
        model=options.model,
        arm=options.arm,
        since=options.since,
        until=options.until,
        min_drift=options.min_drift,
    )
    location = options.history or os.environ.get(HISTORY_VARIABLE) or default_location(os.environ)
    count = export(_existing(location), wanted, options.format, Path(options.out))
    print(f"wrote {options.out}: {count} turns")


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="mooring history", allow_abbrev=False)
    one = top.add_subparsers(required=True, metavar="export").add_parser("export", help="write turns to a file")
    one.add_argument("--format", required=True, choices=sorted(_FORMATS))
    one.add_argument("--out", required=True, metavar="FILE")
    one.add_argument("--history", metavar="PATH|postgresql://...", help="as for `mooring serve`")
    for name in ("session", "profile", "model", "arm"):
        one.add_argument(f"--{name}")
    one.add_argument("--since", type=_when, metavar="TIME", help="Unix seconds, or 2026-01-31[T12:00[+00:00]]")
    one.add_argument("--until", type=_when, metavar="TIME", help="the first moment that is left out")
    one.add_argument("--min-drift", type=float)
    return top


def _when(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _existing(location: str) -> Store:
    store = open_store(location)
    if store is None or ("://" not in location and not Path(location).is_file()):
        raise CannotServe(f"there is no history in {location!r}: name one with --history PATH or postgresql://...")
    store.open_to_read()
    return store


def export(store: Store, wanted: Filter, kind: str, out: Path) -> int:
    """Write the file whole or not at all; how many turns it holds."""
    form = _FORMATS[kind]
    try:
        descriptor, name = tempfile.mkstemp(dir=out.absolute().parent, prefix=f".{out.name}.")
    except OSError as error:
        raise CannotServe(f"{out} cannot be written: {error.strerror}") from None
    os.close(descriptor)
    count = 0
    try:
        with form(Path(name)) as write:
            for turns in _chunks(store, wanted):
                write(turns)
                count += len(turns)
        os.replace(name, out)
    except BaseException:
        os.unlink(name)
        raise
    return count


def _chunks(store: Store, wanted: Filter) -> Iterator[Turns]:
    after, end = 0, store.newest()
    while rows := [row for row in store.turns(wanted, after, CHUNK) if row["id"] <= end]:
        yield [{"id": row["id"]} | turn_row(row) for row in rows]
        after = rows[-1]["id"]


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        sheet = csv.writer(file)
        sheet.writerow(COLUMNS)
        yield lambda turns: sheet.writerows([[_text(turn[name]) for name in COLUMNS] for turn in turns])


def _text(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, (bool, dict)) else value


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise CannotServe("Parquet needs a library: pip install 'mooring[parquet]' (CSV needs none)") from None
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string(), bool: pyarrow.bool_()}
    layer = pyarrow.struct([("layer", kinds[int]), *((name, kinds[float]) for name in LAYER)])
    types = {"id": kinds[int]} | {name: kinds[_PLAIN[name]] for name in TURN[:-1]}
    schema = pyarrow.schema([*types.items(), ("layers", pyarrow.list_(layer))])
    with ParquetWriter(path, schema, compression="zstd") as file:

        def write(turns: Turns) -> None:
            listed = [turn | {"layers": [{"layer": int(n)} | by for n, by in turn["layers"].items()]} for turn in turns]
            file.write_table(pyarrow.Table.from_pylist(listed, schema))

        yield write


_FORMATS: Final = {"csv": _csv, "parquet": _parquet}

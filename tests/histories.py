"""Records that no model made, and what tests of a history wait for."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import REGISTRY

from mooring_server.history.queries import SessionQuery
from mooring_server.history.store import Store
from mooring_server.record import Record

PLAIN: dict[str, Any] = {
    "at": 1_790_000_000.0,
    "response": "chatcmpl-1",
    "choice": 0,
    "route": "chat",
    "model": "demo",
    "profile": "strong",
    "arm": "none",
    "session": "s",
    "identity": "client",
    "turn": 1,
    "node": "",
    "parent": "",
    "tokens": 10,
    "measured_tokens": 9,
    "lifted_tokens": 3,
    "projection": 11.75,
    "drift": 0.1,
    "mean_lift": 0.33,
    "complete": True,
    "finished": True,
    "layers": {3: (11.75, 0.0, 0.0), 4: (1 / 3, 1.25, 0.5)},
}


def record(**different: Any) -> Record:
    return Record(**(PLAIN | different))


def append(store: Store, records: Iterable[Record], writer: int = 1, first: int = 0) -> None:
    """As a writer of that name would, in one batch."""
    with store.appending() as connection:
        store.insert(connection, [store.row(each, writer, number) for number, each in enumerate(records, first)])


def all_sessions(store: Store, **query: Any) -> list[dict[str, Any]]:
    """From every page."""
    page = store.sessions(SessionQuery(**query))
    rows = list(page.rows)
    while page.next is not None:
        page = store.sessions(SessionQuery(**query | {"cursor": page.next}))
        rows += page.rows
    return rows


def counted(name: str) -> float:
    """What a metric of this process says."""
    return REGISTRY.get_sample_value(name) or 0.0


def eventually(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.02)

"""A history for one API process: what it is told goes into the store and to whoever listens."""

import atexit
from collections.abc import Callable, Mapping

from mooring_server.history.live import Live
from mooring_server.history.location import DAYS_VARIABLE, DEFAULT_DAYS, HISTORY_VARIABLE, OFF, days, open_store
from mooring_server.history.routes import Kept
from mooring_server.history.writer import Writer
from mooring_server.record import Sinks


def start(environment: Mapping[str, str], sinks: Sinks | None, stopping: Callable[[], bool]) -> Kept:
    """CannotServe where the store cannot be opened. Without sinks, as answers are not measured, it is only read.

    `stopping` says whether the server is about to end.
    """
    live = Live(stopping)
    store = open_store(environment.get(HISTORY_VARIABLE, OFF))
    if sinks is not None:
        sinks.add("live", live.put)
        if store is not None:
            writer = Writer(store, days(environment.get(DAYS_VARIABLE, DEFAULT_DAYS)))
            atexit.register(writer.stop)
            sinks.add("history", writer.put)
    return Kept(store, live)

"""Where a history is kept: a path, postgresql://..., or `off`; and how the API processes of a server learn it.

    MOORING_HISTORY         what `mooring serve --history` says; without it, a process keeps no history
    MOORING_HISTORY_DAYS    turns that ended longer ago are deleted; `forever` deletes none
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mooring_axes.errors import CannotServe
from mooring_hooks.progress import say
from mooring_server.history.store import Away, Store

HISTORY_VARIABLE: Final = "MOORING_HISTORY"
DAYS_VARIABLE: Final = "MOORING_HISTORY_DAYS"
OFF: Final = "off"
FOREVER: Final = "forever"
DEFAULT_DAYS: Final = "30"
"""Long enough to look into last month's complaint; conversations are personal, and nobody reads older ones."""
SECRET: Final = "***"


def default_location(environment: Mapping[str, str]) -> str:
    """In the user's folder for state."""
    state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(state) / "mooring" / "history.sqlite")


def variables(history: str | None, history_days: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """What `mooring serve` sets for its processes. What the environment says already stays as it is, and unprinted."""
    found = {}
    if history is not None or HISTORY_VARIABLE not in environment:
        found[HISTORY_VARIABLE] = _settled(default_location(environment) if history is None else history)
    if history_days is not None or DAYS_VARIABLE not in environment:
        found[DAYS_VARIABLE] = DEFAULT_DAYS if history_days is None else history_days
    told = {**environment, **found}
    open_store(told[HISTORY_VARIABLE])
    days(told[DAYS_VARIABLE])
    return found


def described(environment: Mapping[str, str]) -> str:
    """For whoever starts the server."""
    location, kept = environment[HISTORY_VARIABLE], environment[DAYS_VARIABLE]
    if location == OFF:
        return "no history of turns is kept"
    age = "for ever" if kept == FOREVER else f"for {kept} days"
    return f"every turn is kept {age} in {without_password(location)} (numbers, no text; --history off keeps none)"


def check(environment: Mapping[str, str]) -> None:
    """CannotServe where the history cannot be opened; one that is away is only spoken of."""
    if (store := open_store(environment.get(HISTORY_VARIABLE, OFF))) is not None:
        try:
            store.open()
        except Away as error:
            say(str(error))


def _settled(location: str) -> str:
    """The same wherever a process is started."""
    is_path = location and location != OFF and "://" not in location
    return str(Path(location).expanduser().absolute()) if is_path else location


def is_url(location: str) -> bool:
    return location.startswith(("postgresql://", "postgres://"))


def without_password(location: str) -> str:
    """To be printed."""
    if not is_url(location):
        return location
    parts = urlsplit(location)
    who, at, host = parts.netloc.rpartition("@")
    user, colon, _ = who.partition(":")
    query = [(name, SECRET if "password" in name else value) for name, value in parse_qsl(parts.query)]
    netloc = f"{user}{colon}{SECRET if colon else ''}{at}{host}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe=SECRET)))


def open_store(location: str) -> Store | None:
    """None where none is kept."""
    if location == OFF:
        return None
    if is_url(location):
        from mooring_server.history.postgres import PostgresStore

        return PostgresStore(location)
    if not location or "://" in location:
        raise CannotServe(
            f"--history {without_password(location)!r} is not understood: "
            f"give a path, postgresql://USER@HOST/DATABASE, or {OFF}"
        )
    from mooring_server.history.sqlite import SqliteStore

    return SqliteStore(Path(location))


def days(text: str) -> float | None:
    """None keeps turns for ever."""
    if text == FOREVER:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise CannotServe(
            f"--history-days {text!r} is not understood: give a number above 0, or {FOREVER}; "
            f"to keep nothing, --history {OFF}"
        )
    return value

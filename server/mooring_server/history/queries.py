"""What may be asked of a history, and the SQL for it.

Pages follow a key, not a count: a cursor holds the last row's place in the order, so a page costs the same wherever it
is, and sessions that come or go in between neither repeat nor hide the others.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

Order = Literal["last", "drift"]
_COLUMN: Final[dict[str, str]] = {"last": "last_at", "drift": "max_drift"}
_BIGGEST: Final = 2**63 - 1


class BadCursor(ValueError):
    """A cursor that no page gave out."""


@dataclass(frozen=True, slots=True)
class Filter:
    """None leaves everything in. Times are Unix seconds: from `since` on, before `until`."""

    session: str | None = None
    profile: str | None = None
    model: str | None = None
    arm: str | None = None
    since: float | None = None
    until: float | None = None
    min_drift: float | None = None

    def where(self, first: str, last: str, drift: str) -> tuple[list[str], dict[str, Any]]:
        """Conditions on these columns, and their parameters."""
        conditions = {
            "session": "session = :session",
            "profile": "profile = :profile",
            "model": "model = :model",
            "arm": "arm = :arm",
            "since": f"{last} >= :since",
            "until": f"{first} < :until",
            "min_drift": f"{drift} >= :min_drift",
        }
        given = {name: value for name in conditions if (value := getattr(self, name)) is not None}
        return [conditions[name] for name in given], given


class Page(NamedTuple):
    rows: Sequence[dict[str, Any]]
    next: str | None
    """Cursor of the page after it; None at the end."""


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Order `last`: the latest first. Order `drift`: the highest drift of a turn first, and only where there is one."""

    filter: Filter = Filter()
    order: Order = "last"
    limit: int = 50
    cursor: str | None = None

    def place(self) -> tuple[float, int] | None:
        """(value, id) of the last row of the page before."""
        if self.cursor is None:
            return None
        try:
            order, value, number = json.loads(base64.urlsafe_b64decode(self.cursor.encode()))
            value, number = float(value), int(number)
        except (ValueError, TypeError, OverflowError, RecursionError):
            order, value, number = None, 0.0, 0
        if order != self.order or not math.isfinite(value) or not 0 <= number <= _BIGGEST:
            raise BadCursor(
                f"{self.cursor[:200]!r} is no cursor of order {self.order!r}: "
                "take `next` of the page before, and ask for the same order"
            )
        return value, number

    def page(self, rows: Sequence[dict[str, Any]]) -> Page:
        """Of what `session_list` found, which is one row more where there is a next page."""
        if len(rows) <= self.limit:
            return Page(rows, None)
        last = rows[self.limit - 1]
        place = json.dumps([self.order, last[_COLUMN[self.order]], last["id"]])
        return Page(rows[: self.limit], base64.urlsafe_b64encode(place.encode()).decode())


def session_list(query: SessionQuery) -> tuple[str, dict[str, Any]]:
    """The statement and its parameters."""
    conditions, parameters = query.filter.where("first_at", "last_at", "max_drift")
    column = _COLUMN[query.order]
    if query.order == "drift":
        conditions.append("max_drift IS NOT NULL")
    if (place := query.place()) is not None:
        conditions.append(f"({column}, id) < (:place, :id)")
        parameters |= {"place": place[0], "id": place[1]}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT * FROM mooring_sessions {where} ORDER BY {column} DESC, id DESC LIMIT :limit"
    return statement, parameters | {"limit": query.limit + 1}


def turn_list(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """The same for turns; :after and :most are the caller's."""
    conditions, parameters = wanted.where("at", "at", "drift")
    where = " AND ".join(["id > :after", *conditions])
    return f"SELECT * FROM mooring_turns WHERE {where} ORDER BY id LIMIT :most", parameters

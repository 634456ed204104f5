"""How turns and sessions look to a client: JSON with the names that replies use."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mooring_server.history.schema import KEY, TURN
from mooring_server.record import Record

_SESSION = (*KEY, "identity", "first_at", "last_at", "turns", "max_drift", "last_drift")
LAYER: Final = ("projection", "lift", "lifted_share")


def turn_object(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in TURN} | {"layers": _layers(record.layers)}


def turn_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same from a row of mooring_turns."""
    told = {name: row[name] for name in TURN}
    truths = {name: bool(row[name]) for name in ("complete", "finished")}  # SQLite keeps 0 and 1
    return told | truths | {"layers": _layers(msgspec.json.decode(row["layers"]))}


def session_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of mooring_sessions: sums become means."""
    return {name: row[name] for name in _SESSION} | {
        "mean_drift": _ratio(row["drift_sum"], row["drifts"]),
        "lifted_share": _ratio(row["lifted_tokens"], row["measured_tokens"]),
    }


def _layers(layers: Mapping[Any, Any]) -> dict[str, dict[str, float]]:
    return {str(layer): dict(zip(LAYER, numbers, strict=True)) for layer, numbers in layers.items()}


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None

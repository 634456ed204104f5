"""The `mooring` object of a reply, from an answer's reading.

profile, session, turn   what the answer ran under, and where it stands in its conversation
arm                      NAME/ARM; only where the session is of an experiment
projection, drift        mean over the answer's tokens at `monitored_layer`; null where no token was measured:
                         the last sampled token never is, so an answer of one token has no reading
lifted_share, mean_lift  share of tokens that the cap lifted, and by how much over the layers it acts on
layers                   layer -> mean projection before the cap, mean lift, share of lifted tokens
measured_tokens, complete   false where some readings had not come in time; the means are over those that had
monitored_after_cap      only there, and true, where the profile caps before the monitored layer
tokens                   if `mooring_tokens` asked for them: numbers per token at every layer, at most TOKENS_MOST
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mooring_hooks.inbox import Rows
from mooring_hooks.measure import Reading
from mooring_server.record import NO_ARM, Record
from mooring_server.turn import Turn

TOKENS_MOST: Final = 4096
"""Tokens of an answer whose own numbers are reported."""


def final_member(turn: Turn, readings: Sequence[Reading], records: Sequence[Record]) -> bytes:
    """`"mooring":...` for the end of an answer; a list by choice index where there are several."""
    if not turn.measured:
        return _member([_unmeasured(records[0])])
    objects = []
    for answer, reading, record in zip(turn.answers(), readings, records, strict=True):
        told = _object(turn, reading, record)
        if turn.wants_tokens:
            told["tokens"] = _tokens(turn, answer.news(TOKENS_MOST)) | {"truncated": reading.tokens > TOKENS_MOST}
        objects.append(told)
    return _member(objects)


def tokens_member(turn: Turn) -> bytes | None:
    """`"mooring":...` for a frame in between: the tokens that have come since the last one; None if none have."""
    news = [answer.news(TOKENS_MOST) for answer in turn.drained()]
    return _member([{"tokens": _tokens(turn, rows)} for rows in news]) if any(news) else None


def _member(objects: Sequence[dict[str, Any]]) -> bytes:
    several = [{"index": i} | told for i, told in enumerate(objects)]
    return b'"mooring":' + msgspec.json.encode(several if len(objects) > 1 else objects[0])


def _object(turn: Turn, reading: Reading, record: Record) -> dict[str, Any]:
    measure = turn.measure
    told = _head(record) | {
        "projection": _short(reading.projection),
        "drift": _short(reading.drift),
        "monitored_layer": measure.layers[measure.monitored],
        "lifted_share": _short(reading.lifted_share),
        "mean_lift": _short(reading.mean_lift),
        "measured_tokens": reading.tokens,
        "complete": reading.complete,
        "layers": {
            str(layer): {"projection": _short(p), "lift": _short(lift), "lifted_share": _short(share)}
            for layer, (p, lift, share) in reading.layers.items()
        },
    }
    if measure.monitored_after_cap(turn.slot):
        told["monitored_after_cap"] = True
    return told


def _unmeasured(record: Record) -> dict[str, Any]:
    nothing = dict.fromkeys(("projection", "drift", "lifted_share", "mean_lift"))
    return _head(record) | nothing | {"measured_tokens": 0, "complete": False, "layers": {}}


def _head(record: Record) -> dict[str, Any]:
    head = {"profile": record.profile, "session": record.session or None, "turn": record.turn}
    return head if record.arm == NO_ARM else head | {"arm": record.arm}


def _tokens(turn: Turn, rows: Rows | None) -> dict[str, Any]:
    """Numbers of each of these tokens."""
    layers = [str(layer) for layer in turn.measure.layers]
    if rows is None:
        return {"index": [], "projection": {layer: [] for layer in layers}, "lift": {layer: [] for layer in layers}}

    def by_layer(values: Any) -> dict[str, list[float | None]]:
        return {layer: [_short(v) for v in row] for layer, row in zip(layers, values.tolist(), strict=True)}

    return {
        "index": rows.index.tolist(),
        "projection": by_layer(rows.projections),
        "lift": by_layer(turn.measure.lifts(rows)),
    }


def _short(value: float | None) -> float | None:
    """Six significant digits: what a bf16 model can mean, and more."""
    return None if value is None else float(f"{value:.6g}")

"""Where answers lay on the axis: the server's own readings, on average, by turn, and beside what was answered.

    readings    of one set under one arm: projection, drift and lifted share of a prompt's answers, averaged
    drift       of sets that are talks: by turn, per turn, and against the reference
    separation  how well projections tell default from role answers
    by outcome  of sets judged for harm: the last answer's drift and lift where it was harmful, and where it was not

The answers of one talk are not independent: they are averaged before anything else.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from mooring_bench import paired
from mooring_bench.asking import Record, Reply
from mooring_bench.judged import Judged, Key
from mooring_bench.prompts import BACK_TURNS

Summary = dict[str, Any]
AVERAGED: Final = ("projection", "drift", "lifted_share")
BESIDE: Final = ("drift", "lifted_share")


def number(reading: Mapping[str, Any] | None, key: str) -> float | None:
    value = (reading or {}).get(key)
    return None if value is None else float(value)


def numbers(replies: Iterable[Reply], key: str) -> list[float]:
    found = (number(reply.reading, key) for reply in replies)
    return [value for value in found if value is not None]


def readings(judged: Judged, name: str, arm: str, seed: int) -> Summary:
    records = judged.records(name, arm)
    replies = [reply for record in records.values() for reply in record.replies]
    with_one = [reply.reading for reply in replies if reply.reading is not None]
    return {
        "answers": len(replies),
        "with_reading": len(with_one),
        "complete": sum(bool(reading.get("complete")) for reading in with_one),
        **{key: _mean(judged, name, _averages(records, key), seed) for key in AVERAGED},
        "lift_by_layer": {layer: round(sum(v) / len(v), 4) for layer, v in _by_layer(replies, "lift").items()},
    }


def _averages(records: Mapping[Key, Record], key: str) -> dict[Key, float]:
    """Of the answers of each record that has any."""
    found = {which: numbers(record.replies, key) for which, record in records.items()}
    return {which: sum(values) / len(values) for which, values in found.items() if values}


def _mean(judged: Judged, name: str, values: Mapping[Key, float], seed: int) -> Summary | None:
    return paired.plain(paired.mean(list(values.values()), seed, judged.clusters(name, values)))


def _by_layer(replies: Iterable[Reply], key: str) -> dict[str, list[float]]:
    """Layer -> one number per answer that has one."""
    found: dict[str, list[float]] = defaultdict(list)
    for reply in replies:
        for layer, reading in ((reply.reading or {}).get("layers") or {}).items():
            if (value := number(reading, key)) is not None:
                found[layer].append(value)
    return found


# --- drift by turn -------------------------------------------------------------------------------


def drift(judged: Judged, seed: int) -> Summary:
    """Of every set that is talks throughout, and every arm that reads drift there."""
    paths = {(name, arm): drift_paths(judged.records(name, arm)) for name in judged.sets() for arm in judged.arms}
    found: dict[str, Summary] = defaultdict(dict)
    for (name, arm), of_arm in paths.items():
        if of_arm:
            before = {} if judged.reference in (None, arm) else paths.get((name, judged.reference), {})
            found[name][arm] = _of_talks(judged, name, of_arm, seed) | {
                "against_reference": _talks_against(judged, name, before, of_arm, seed)
            }
    return dict(found)


def drift_paths(records: Mapping[Key, Record]) -> dict[Key, list[float]]:
    """Of the talks with a drift at every turn, all of the commonest length."""
    paths = dict(_paths(records))
    lengths = Counter(map(len, paths.values())).most_common(1)
    return {key: path for key, path in paths.items() if len(path) == lengths[0][0] > 1}


def _paths(records: Mapping[Key, Record]) -> Iterator[tuple[Key, list[float]]]:
    for key, record in records.items():
        drifts = numbers(record.replies, "drift")
        if record.failed is None and len(drifts) == len(record.replies):
            yield key, drifts


def _of_talks(judged: Judged, name: str, paths: Mapping[Key, Sequence[float]], seed: int) -> Summary:
    def mean(of: Callable[[Sequence[float]], float]) -> Summary | None:
        return _mean(judged, name, {key: of(path) for key, path in paths.items()}, seed)

    turns = len(next(iter(paths.values())))
    return {
        "by_turn": [mean(itemgetter(turn)) for turn in range(turns)],
        "slope_per_turn": mean(paired.slope),
        "last_turns": mean(last_turns) if turns > BACK_TURNS else None,
    }


def _talks_against(
    judged: Judged, name: str, before: Mapping[Key, Sequence[float]], after: Mapping[Key, Sequence[float]], seed: int
) -> Summary | None:
    """Of talks under both: how much lower or higher a talk's mean drift is than under the reference."""
    both = sorted(before.keys() & after.keys())
    changes = {key: sum(after[key]) / len(after[key]) - sum(before[key]) / len(before[key]) for key in both}
    return _mean(judged, name, changes, seed) if both else None


def last_turns(path: Sequence[float]) -> float:
    """Change of drift over the last BACK_TURNS turns; below 0 = back towards the Assistant."""
    return path[-1] - path[-1 - BACK_TURNS]


# --- drift beside outcome ------------------------------------------------------------------------


def by_outcome(judged: Judged, seed: int) -> Summary:
    """Of every set that is judged for harm, where answers have readings."""
    names = [name for name in judged.sets() if "harm" in judged.measures(name)]
    found = {name: {arm: _harmful_and_not(judged, name, arm, seed) for arm in judged.arms} for name in names}
    told = {name: {arm: of for arm, of in arms.items() if of is not None} for name, arms in found.items()}
    return {name: arms for name, arms in told.items() if arms}


def _harmful_and_not(judged: Judged, name: str, arm: str, seed: int) -> Summary | None:
    harm, records = judged.outcome(name, arm, "harm"), judged.records(name, arm)
    read = {key: records[key].replies[-1].reading for key in harm}
    if not any(read.values()):
        return None
    return {
        word: _beside(judged, name, {key: read[key] for key, true in harm.items() if true is wanted}, seed)
        for word, wanted in (("harmful", True), ("not_harmful", False))
    }


def _beside(judged: Judged, name: str, read: Mapping[Key, Mapping[str, Any] | None], seed: int) -> Summary:
    told: Summary = {"n": len(read)}
    for what in BESIDE:
        values = {key: value for key, reading in read.items() if (value := number(reading, what)) is not None}
        told[what] = _mean(judged, name, values, seed)
    return told


# --- default against role ------------------------------------------------------------------------


def separation(judged: Judged) -> Summary | None:
    """Under the reference: the role answers that are in voice, as in the paper, and then all of them."""
    if judged.reference is None:
        return None
    default = _answers(judged, "default_answers", lambda key: True)
    voice = judged.outcome("role_play", judged.reference, "voice")
    role, playing = (_answers(judged, "role_play", keep) for keep in (lambda key: True, lambda key: voice.get(key)))
    layers = {reply.reading.get("monitored_layer") for reply in default.values() if reply.reading}
    return {
        "monitored_layer": layers.pop() if len(layers) == 1 else None,
        "auc": _auc(judged, default, playing),
        "auc_with_role_answers_out_of_voice": _auc(judged, default, role),
        "auc_by_layer": _auc_by_layer(default.values(), playing.values()),
    }


def _answers(judged: Judged, name: str, keep: Callable[[Key], Any]) -> dict[Key, Reply]:
    records = judged.records(name, judged.reference or "")
    return {key: record.replies[-1] for key, record in records.items() if record.failed is None and keep(key)}


def _auc(judged: Judged, default: Mapping[Key, Reply], role: Mapping[Key, Reply]) -> Summary | None:
    values, clusters = [], []
    for name, replies in (("default_answers", default), ("role_play", role)):
        of = {key: p for key, reply in replies.items() if (p := number(reply.reading, "projection")) is not None}
        values.append(list(of.values()))
        clusters.append(judged.clusters(name, of))
    return paired.plain(paired.auc(*values, *clusters))


def _auc_by_layer(default: Iterable[Reply], role: Iterable[Reply]) -> dict[str, float | None]:
    above, below = _by_layer(default, "projection"), _by_layer(role, "projection")
    found = {layer: paired.auc(above[layer], below[layer]).value for layer in above if layer in below}
    return {layer: None if value is None else round(value, 4) for layer, value in found.items()}
